"""Which classes a target has to beat in a step, drawn without replacement, the frequent ones rather.

Of V classes in order of frequency, class i is drawn in proportion to p(i) = ln((i + 2) / (i + 1)) / ln(V + 1), the
log-uniform distribution, which is close to Zipf's. Drawing works by clocks: that of class i rings after a time that is
exponential with rate p(i), and the `count` classes that ring first are drawn. Let T be when the next one rings. Given
the clocks of the others, a class is drawn with probability q(i) = 1 - exp(-p(i) T). That is the expected count by which
TensorFlow's sampler corrects, 1 - (1 - p(i))^tries, in continuous time. Dividing by q(i) makes sums over the drawn
classes unbiased estimates of sums over all (bottom-k sampling: Cohen and Kaplan, "Summarizing data using bottom-k
sketches", 2007). Where all classes are drawn, q = 1.

The draw depends on the seed alone, and all ranks make the same one: a run does not depend on the number of ranks, and
the negatives' rows, which every rank then has a gradient for, are many ranks' rows added up, not many more rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from common.options import UsageError


class Negatives(NamedTuple):
    """The classes drawn, int64 [count], and ln q of each, float32 [count]."""

    classes: torch.Tensor
    log_inclusion: torch.Tensor


class LogUniform:
    """Draws from `classes` classes.

    Raises:
        UsageError: there are fewer classes than are to be drawn.
    """

    def __init__(self, classes: int, count: int) -> None:
        if count > classes:
            raise UsageError(f"--negatives is {count}, but there are only {classes} words; choose at most as many.")
        self._count = count
        ends = torch.log(torch.arange(1, classes + 2, dtype=torch.float64))
        self._rates = ends.diff() / ends[-1]

    def draw(self, seed: int) -> Negatives:
        """The draw that belongs to the seed."""
        rings = torch.empty_like(self._rates).exponential_(generator=torch.Generator().manual_seed(seed)) / self._rates
        if self._count == len(rings):
            return Negatives(torch.arange(self._count), torch.zeros(self._count))
        first = rings.topk(self._count + 1, largest=False)  # in the order in which they ring
        drawn, following = first.indices[:-1], first.values[-1]
        inclusion = -torch.expm1(-self._rates[drawn] * following)
        return Negatives(drawn, inclusion.log().float())
