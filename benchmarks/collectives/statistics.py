"""From the times of single repetitions to the figures of a table."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]

RESAMPLES = 4000
_SEED = 20_240_229


def slowest_rank(by_rank: Times) -> Times:
    """Seconds of each repetition: from shape (ranks, repetitions), the time of the rank that took longest."""
    slowest: Times = by_rank.max(axis=0)
    return slowest


def ratio_interval(times: Times, peer_times: Times, block: int) -> tuple[float, float, float]:
    """Ratio of two medians and its 95 % bootstrap interval, from repetitions measured in interleaved pairs.

    Blocks of `block` neighbouring pairs are drawn, not single times. Pairs: what disturbs the machine for a while
    disturbs both halves, and such common disturbance should not widen the interval. Blocks: neighbours resemble each
    other, and to count each as fresh evidence would make the interval too narrow. A last, shorter block is left out of
    the drawing.

    Returns:
        ratio, lower end, upper end.
    """
    blocks = max(1, len(times) // block)
    starts = np.random.default_rng(_SEED).integers(0, blocks, (RESAMPLES, blocks, 1)) * block
    drawn = (starts + np.arange(min(block, len(times)))).reshape(RESAMPLES, -1)
    ratios = np.median(times[drawn], axis=1) / np.median(peer_times[drawn], axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(np.median(times) / np.median(peer_times)), float(low), float(high)
