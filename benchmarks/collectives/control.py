"""What the ranks need around a measurement, without either of the backends measured: a barrier and a gather of times.

Were the barrier one of Gloo's, Gloo's threads and connections would be warm whenever a repetition starts, and merak's
would not. So the ranks meet over plain TCP sockets, a star around rank 0: everyone sends rank 0 a byte, and rank 0
answers everyone when all have. Ranks leave within some tens of microseconds of each other, the same for all backends.
"""

from __future__ import annotations

import os
import socket

import numpy as np
import numpy.typing as npt
from torch._C._distributed_c10d import Store

_BYTE = b"."
# Longer than a group's timeout, so that the rank whose operation hangs is the first to complain.
_TIMEOUT_SECONDS = 120.0


class Control:
    """A star of sockets around rank 0. Every method is collective: all ranks call it, in the same order.

    Args:
        store: where rank 0 publishes its port; all ranks pass the same.
        rank, size: this rank and the number of ranks.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.rank = rank
        address = os.environ["MASTER_ADDR"]
        if rank == 0:
            self.peers = _accept(store, address, size)
            return
        port = int(store.get("control-port"))
        hub = _tuned(socket.create_connection((address, port), _TIMEOUT_SECONDS))
        hub.sendall(rank.to_bytes(4, "little"))
        self.peers = [hub]

    def barrier(self) -> None:
        """Return when every rank has called it."""
        if self.rank == 0:
            for peer in self.peers:
                _receive(peer, 1)
            for peer in self.peers:
                peer.sendall(_BYTE)
        else:
            self.peers[0].sendall(_BYTE)
            _receive(self.peers[0], 1)

    def gather(self, row: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
        """On rank 0 the rows of all ranks, shape (ranks, len(row)); None elsewhere. Rows have the same length."""
        if self.rank != 0:
            self.peers[0].sendall(row.tobytes())
            return None
        others = [np.frombuffer(_receive(peer, row.nbytes), np.float64) for peer in self.peers]
        return np.stack([row, *others])

    def close(self) -> None:
        """Close the sockets."""
        for peer in self.peers:
            peer.close()


def _accept(store: Store, address: str, size: int) -> list[socket.socket]:
    """Rank 0's sockets to ranks 1, 2, ... in this order."""
    by_rank: dict[int, socket.socket] = {}
    with socket.create_server((address, 0), backlog=size) as server:
        server.settimeout(_TIMEOUT_SECONDS)
        store.set("control-port", str(server.getsockname()[1]))
        while len(by_rank) < size - 1:
            peer = _tuned(server.accept()[0])
            by_rank[int.from_bytes(_receive(peer, 4), "little")] = peer
    return [by_rank[rank] for rank in range(1, size)]


def _tuned(peer: socket.socket) -> socket.socket:
    peer.settimeout(_TIMEOUT_SECONDS)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return peer


def _receive(peer: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = peer.recv(count - len(data))
        if not part:
            raise ConnectionError("a rank left the benchmark early: its own output says why")
        data += part
    return bytes(data)
