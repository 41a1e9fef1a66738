"""How fast the links of a group of ranks are, measured through torch.distributed.

Each collective runs with messages of growing size: 512 bytes, 4 KiB, 32 KiB, 256 KiB, 2 MiB, and more until one takes
10 ms. (A link that is shaped lets 128 KiB or so pass at once, so that beta needs two sizes beyond.) A round is a
barrier and one collective; its time is that of the slowest rank; of several rounds the median counts. A send goes forth
and back between the first two ranks, and half of that is its time. From the times by size come alpha and beta
(fitting.py).

All links of the group must be alike: its ranks share a host, or each has a host of its own.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from merak.planner.collective_times import crossing, steps
from merak.planner.fitting import fit
from merak.planner.link import COLLECTIVES, Link

if TYPE_CHECKING:
    from merak._torch_compat import ProcessGroup

_SMALLEST_BYTES, _GROWTH, _FEWEST_SIZES = 512, 8, 5
_ELEMENT_BYTES = 4
_ENOUGH_S = 0.01


def measure_link(group: ProcessGroup, device: torch.device, rounds: int, largest_bytes: int) -> Link:
    """The link between the ranks of a group of two or more, which all call it; the same on all.

    Args:
        device: where the messages are.
        rounds: how often each message is sent.
        largest_bytes: of a message.
    """
    ranks = group.size()
    measured = {}
    for kind in COLLECTIVES:
        crossed, seconds = [], []
        nbytes = _SMALLEST_BYTES
        while nbytes <= largest_bytes:
            elements = -(-nbytes // (_ELEMENT_BYTES * ranks)) * ranks
            seconds.append(_seconds(_operation(kind, elements, group, device), group, device, rounds))
            seconds[-1] /= 2 if kind == "send" else 1
            crossed.append(crossing(kind, ranks) * elements * _ELEMENT_BYTES)
            if seconds[-1] >= _ENOUGH_S and len(seconds) >= _FEWEST_SIZES:
                break
            nbytes *= _GROWTH
        measured[kind] = fit(steps(kind, ranks), crossed, seconds)
    alpha, beta = measured.pop("send")
    return Link(1 / beta, alpha, measured)


def _seconds(operation: Callable[[], object], group: ProcessGroup, device: torch.device, rounds: int) -> float:
    operation()  # connects, and allocates
    times = []
    for _ in range(rounds):
        dist.barrier(group)
        begin = time.perf_counter()
        operation()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begin)
    slowest = torch.tensor(times, dtype=torch.float64)
    dist.all_reduce(slowest, dist.ReduceOp.MAX, group)
    return float(statistics.median(slowest.tolist()))


def _operation(kind: str, elements: int, group: ProcessGroup, device: torch.device) -> Callable[[], object]:
    """A collective whose whole tensor has this many elements, a multiple of the ranks."""
    whole, other = (torch.zeros(elements, device=device) for _ in range(2))
    part = torch.zeros(elements // group.size(), device=device)
    first, second = dist.get_process_group_ranks(group)[:2]

    def forth_and_back() -> None:
        if group.rank() == 0:
            dist.send(whole, second, group)
            dist.recv(whole, second, group)
        elif group.rank() == 1:
            dist.recv(whole, first, group)
            dist.send(whole, first, group)

    operations: dict[str, Callable[[], object]] = {
        "all_reduce": lambda: dist.all_reduce(whole, group=group),
        "reduce_scatter": lambda: dist.reduce_scatter_tensor(part, whole, group=group),
        "all_gather": lambda: dist.all_gather_into_tensor(whole, part, group=group),
        "all_to_all": lambda: dist.all_to_all_single(other, whole, group=group),
        "broadcast": lambda: dist.broadcast(whole, first, group),
        "send": forth_and_back,
    }
    return operations[kind]
