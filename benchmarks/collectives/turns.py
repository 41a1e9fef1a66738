"""Measuring calls beside each other: repetition i of one stands beside repetition i of the others."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from .control import Control
from .statistics import Times


class Turn(NamedTuple):
    """One of the things that take turns."""

    reset: Callable[[], None]
    call: Callable[[], None]


def take_turns(turns: Sequence[Turn], repetitions: int, control: Control) -> Times:
    """Seconds of every repetition on this rank, shape (turns, repetitions).

    The order alternates, all ranks meet before each call, and `reset` is not measured.
    """
    times = np.zeros((len(turns), repetitions))
    order = list(range(len(turns)))
    gc.disable()
    for repetition in range(repetitions):
        for index in order if repetition % 2 == 0 else reversed(order):
            turns[index].reset()
            control.barrier()
            start = time.perf_counter()
            turns[index].call()
            times[index, repetition] = time.perf_counter() - start
    gc.enable()
    return times
