"""The measured goodput of a link: one plain TCP stream from host 0 to host 1, no library in between.

It checks the figure that every lower bound uses (`Topology.goodput`, computed from rate and header sizes).
"""

from __future__ import annotations

import sys

from .cluster import Cluster

_PORT = 29400
_CHUNK = 1 << 20

# The receiver's clock starts when the first bytes arrive, so that connecting is not counted.
_RECEIVE = f"""
import socket, time
with socket.create_server(("", {_PORT})) as server:
    print("listening", flush=True)
    connection, _ = server.accept()
buffer = bytearray({_CHUNK})
received = connection.recv_into(buffer)
start, first = time.perf_counter(), received
while count := connection.recv_into(buffer):
    received += count
print((received - first) / (time.perf_counter() - start))
"""

_SEND = f"""
import socket, sys, time
chunk = bytes({_CHUNK})
with socket.create_connection((sys.argv[1], {_PORT})) as connection:
    end = time.perf_counter() + float(sys.argv[2])
    while time.perf_counter() < end:
        connection.sendall(chunk)
"""


def measure_goodput(cluster: Cluster, seconds: float = 2.0) -> float:
    """Bytes of payload per second that one TCP stream moves from host 0 to host 1, over about `seconds`."""
    receiver = cluster.popen(1, [sys.executable, "-c", _RECEIVE])
    assert receiver.stdout is not None
    receiver.stdout.readline()
    sender = cluster.popen(0, [sys.executable, "-c", _SEND, cluster.topology.address(1), str(seconds)])
    sender.communicate()
    output, _ = receiver.communicate()
    return float(output)
