"""How fast a device is, measured: products of matrices, copies, and an operation on next to nothing.

Each number is the median of several rounds. Matrices are doubled until a product takes 20 ms, or has 8,192 rows. A copy
reads and writes more than caches hold. Ranks that share a host measure at the same time, as they compute in training.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import torch

from merak._version import __version__
from merak.planner.device import DTYPES, Device

_ENOUGH_S = 0.02
_LEAST_ROWS, _MOST_ROWS = 256, 8192
_COPIED_BYTES = {"cpu": 64 << 20, "cuda": 512 << 20}
_SMALL_OPERATIONS = 200


def measure_device(device: torch.device, ranks_on_host: int, rounds: int) -> Device:
    """This rank's device.

    Args:
        device: of type "cpu" or "cuda".
        ranks_on_host: that share its memory, if it is a CPU.
        rounds: how often each is measured.
    """
    flops = {name: speed for name, dtype in DTYPES.items() if (speed := _product_speed(dtype, device, rounds))}
    copied = torch.ones(_COPIED_BYTES[device.type] // 4, device=device)
    copy = torch.zeros_like(copied)
    copying_s = median_seconds(lambda: copy.copy_(copied), device, rounds)
    small = torch.zeros(16, device=device)

    def operations() -> None:
        for _ in range(_SMALL_OPERATIONS):
            small.add_(1.0)

    operation_s = median_seconds(operations, device, rounds) / _SMALL_OPERATIONS
    if device.type == "cuda":
        name, memory_bytes = torch.cuda.get_device_name(device), torch.cuda.mem_get_info(device)[1]
    else:
        name = f"CPU, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"
        memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // ranks_on_host
    source = f"measured by merak {__version__} with torch {torch.__version__}"
    return Device(name, flops, memory_bytes, 2 * copied.nbytes / copying_s, operation_s, source)


def median_seconds(operation: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Of several runs, after one that does not count."""
    times = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        operation()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


def _product_speed(dtype: torch.dtype, device: torch.device, rounds: int) -> float | None:
    """FLOP/s; None if the device has no such products."""
    rows = _LEAST_ROWS
    try:
        while _product_seconds(rows, dtype, device, 3) < _ENOUGH_S and rows < _MOST_ROWS:
            rows *= 2
        return 2 * rows**3 / _product_seconds(rows, dtype, device, rounds)
    except RuntimeError:  # "not implemented for 'Half'", and the like
        return None


def _product_seconds(rows: int, dtype: torch.dtype, device: torch.device, rounds: int) -> float:
    left, right = (torch.ones(rows, rows, dtype=dtype, device=device) for _ in range(2))
    return median_seconds(lambda: left @ right, device, rounds)
