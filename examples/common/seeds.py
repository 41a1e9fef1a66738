"""Seeds for everything random, so that it depends on the run and the step and on nothing before them."""

from __future__ import annotations


def mix(*numbers: int) -> int:
    """One seed of 63 bits from several small numbers, such that neighbouring numbers give unrelated seeds.

    Each number is added, and the sum scrambled by the finalizer of SplitMix64 (Steele, Lea and Flood 2014).
    """
    mask = (1 << 64) - 1
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state >> 1
