"""How hard samples may be, how long sequences are, how many tokens a layer keeps: by the training step.

A pacing goes from a `start` to an `end` in `steps` steps, and stays there. With the fraction f = t / steps of the way,
its *difficulty* at step t is

    start + (end - start) * f ** (1 / degree)        degree 1: linear; 2: the square root; and so on

rounded down to a multiple of `quantum`, and never below `start`; from step `steps` on it is `end`. (C. Li et al.,
"DeepSpeed Data Efficiency", 2022, section 3.1. There rounding may give less than the start, or nothing at all.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

BY = ("value", "percentile")


@dataclass(frozen=True)
class Pacing:
    """A difficulty by step. Made by `linear`, `root`, `discrete` or `function`; `pacing(step)` is the difficulty.

    Attributes:
        steps: from here on the difficulty stays.
        by: what the difficulty is compared with: the metric's value, or its percentile among all samples (above 0, up
            to 100: at 10 a tenth of the samples is admitted).
    """

    steps: int
    by: str
    _difficulty: Callable[[int], float] = field(repr=False)
    description: str = ""

    def __post_init__(self) -> None:
        if self.by not in BY:
            raise ValueError(f"a pacing goes by {self.by!r}: use 'value' or 'percentile'")
        if self.steps < 0:
            raise ValueError(f"a pacing of {self.steps} steps: it needs 0 or more")

    def __call__(self, step: int) -> float:
        """The difficulty at a step, which counts from 0."""
        difficulty = float(self._difficulty(min(max(step, 0), self.steps)))
        if math.isnan(difficulty):
            raise ValueError(f"the pacing ({self.description}) is not a number (NaN) at step {step}")
        return difficulty

    def table(self) -> npt.NDArray[np.float64]:
        """The difficulties at steps 0 to `steps`. Where a function of the user falls, what was admitted stays so."""
        return np.maximum.accumulate(np.array([self(step) for step in range(self.steps + 1)], dtype=np.float64))

    @classmethod
    def linear(cls, start: float, end: float, steps: int, *, quantum: float = 1, by: str = "value") -> Pacing:
        """From `start` to `end` in equal parts."""
        return cls.root(start, end, steps, degree=1, quantum=quantum, by=by)

    @classmethod
    def root(
        cls, start: float, end: float, steps: int, *, degree: float = 2, quantum: float = 1, by: str = "value"
    ) -> Pacing:
        """From `start` to `end` along a root: fast at first, then slowly.

        Args:
            degree: of the root.
            quantum: difficulties are multiples of it; 0 for any number.
        """
        if not (math.isfinite(start) and math.isfinite(end) and start <= end):
            raise ValueError(f"a pacing from {start} to {end}: the start must not be above the end")
        if degree <= 0 or quantum < 0:
            raise ValueError(f"degree {degree}, quantum {quantum}: the degree must be above 0, the quantum not below")

        def difficulty(step: int) -> float:
            fraction = step / steps if steps else 1.0
            value: float = start + (end - start) * fraction ** (1 / degree)
            if step >= steps:
                return end
            return max(start, quantum * math.floor(value / quantum)) if quantum else value

        return cls(steps, by, difficulty, f"{start} to {end} in {steps} steps, root of degree {degree}")

    @classmethod
    def discrete(cls, difficulties: Sequence[float], until: Sequence[int], *, by: str = "value") -> Pacing:
        """`difficulties[i]` before step `until[i]`, and the last one from then on: one more of them than of steps."""
        if len(difficulties) != len(until) + 1:
            raise ValueError(
                f"{len(difficulties)} difficulties and {len(until)} steps: the last one lasts, and has none"
            )
        if list(difficulties) != sorted(difficulties) or list(until) != sorted(until):
            raise ValueError("the difficulties, and the steps, of a discrete pacing must ascend")
        ends = list(until)

        def difficulty(step: int) -> float:
            return float(difficulties[sum(step >= end for end in ends)])

        return cls(ends[-1] if ends else 0, by, difficulty, f"{list(difficulties)} until {ends}")

    @classmethod
    def function(cls, difficulty: Callable[[int], float], steps: int, *, by: str = "value") -> Pacing:
        """Your own: called with steps 0 to `steps`; of later ones it has the difficulty of the last."""
        return cls(steps, by, difficulty, f"a function over {steps} steps")


@dataclass(frozen=True)
class KeepSchedule:
    """How many tokens of a sequence the layers that drop some keep: Random-LTD's, linear.

        kept(t) = start + (end - start) * t / steps, rounded down to a multiple of `quantum`, at least `start`

    and `end` from then on, but never more than there are.

    Attributes:
        start: tokens at first.
        steps: until `end` is reached; the published settings are 70 % of the steps for GPT, all of them for BERT.
        end: tokens at the end of the way; by default all of the sequence.
        quantum: kept lengths are multiples of it, since few different shapes are faster on some devices.
    """

    start: int
    steps: int
    end: int | None = None
    quantum: int = 16

    def __post_init__(self) -> None:
        if self.start < 1 or self.steps < 0 or self.quantum < 1:
            raise ValueError(
                f"a schedule that keeps {self.start} tokens, for {self.steps} steps, in multiples of {self.quantum}: "
                "it needs 1 or more, 0 or more, 1 or more"
            )
        if self.end is not None and self.end < self.start:
            raise ValueError(f"a schedule from {self.start} to {self.end} tokens: it must not fall")

    @classmethod
    def constant(cls, kept: int) -> KeepSchedule:
        """So many tokens, always."""
        return cls(kept, steps=0, end=kept, quantum=1)

    def keeps_all(self, step: int) -> bool:
        """Whether at this step all tokens are kept, however long the sequence."""
        return self.end is None and step >= self.steps

    def kept(self, step: int, length: int) -> int:
        """Tokens that are kept of `length` at a step, which counts from 0; between 1 and `length`."""
        end = length if self.end is None else self.end
        if step >= self.steps:
            return min(end, length)
        tokens = self.start + max(end - self.start, 0) * step // self.steps
        return min(max(tokens - tokens % self.quantum, self.start), length)
