"""The arms of the experiment, and which of their runs come first.

All arms train until they have used their *budget* of effective layer-tokens, the whole one or half. What helps is that
of the published recipes, by shares of the *plain steps*, the number of them that a training of this budget has without
help:

- the curriculum (C. Li et al., "DeepSpeed Data Efficiency", 2022): rows truncated to S / 8 tokens at first and to S in
  the end, linearly; rarity of words admitted up to percentile 1 and up to 100, along a square root; over 38.4 % of the
  plain steps;
- Random-LTD (Z. Yao et al., 2022): all layers but the first and the last keep S / 8 tokens at first and S in the end,
  linearly, over 70 % of the plain steps.

With help a budget lasts for more steps, of fewer tokens. So one more arm without help has half the budget and as many
steps as the one with both helps, by smaller batches: what it gains is not the helps' doing.

The *ideas* are departures from the recipes that may close the gap that is left; each is measured like an arm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from merak.data import KeepSchedule, Pacing


@dataclass(frozen=True)
class Scale:
    """What all runs of an experiment have in common.

    Attributes:
        texts: "packages" or "reference".
        budget: the whole one, in effective layer-tokens.
        tokens: S, of a row.
        batch: rows of a step.
    """

    texts: str
    vocabulary: int
    budget: int
    tokens: int
    batch: int
    hidden: int
    layers: int
    heads: int

    @property
    def name(self) -> str:
        """Tells results of this scale from others."""
        model = f"{self.layers}x{self.hidden}"
        return f"{self.texts}-{self.vocabulary}-{self.tokens}-{model}-{self.batch}-{self.budget}"


WHOLE = Scale("packages", 1024, budget=9_000_000, tokens=128, batch=16, hidden=64, layers=6, heads=4)
SMOKE = Scale("reference", 512, budget=600_000, tokens=64, batch=16, hidden=48, layers=6, heads=4)


@dataclass(frozen=True)
class Arm:
    """A way to train.

    Attributes:
        share: of the budget.
        length: the share of S that rows are truncated to at first; None for no such curriculum.
        rarity: the percentile of rarity that is admitted at first; None for no such curriculum.
        paced: the share of the plain steps over which curricula go.
        keep: the share of S that middle layers keep at first; None where they keep all.
        dropping: the share of the plain steps over which tokens are dropped.
        layers: that drop tokens, as `merak.data.RandomLTD` has it.
        as_many_steps_as: an arm of the same budget; batches are made smaller until there are as many steps.
    """

    name: str
    share: float
    length: float | None = None
    rarity: float | None = None
    paced: float = 0.384
    keep: float | None = None
    dropping: float = 0.7
    layers: str | tuple[int, ...] = "middle"
    as_many_steps_as: str | None = None

    def length_pacing(self, scale: Scale) -> Pacing | None:
        """Of the rows' tokens."""
        if self.length is None:
            return None
        quantum, steps = max(scale.tokens // 16, 1), int(self.paced * self._plain_steps(scale))
        return Pacing.linear(int(self.length * scale.tokens), scale.tokens, steps, quantum=quantum)

    def rarity_pacing(self, scale: Scale) -> Pacing | None:
        """Of the percentile of rarity."""
        if self.rarity is None:
            return None
        steps = int(self.paced * self._plain_steps(scale))
        return Pacing.root(self.rarity, 100, steps, degree=2, by="percentile")

    def keep_schedule(self, scale: Scale) -> KeepSchedule:
        """Of the tokens that middle layers keep."""
        if self.keep is None:
            return KeepSchedule.constant(scale.tokens)
        start, quantum = int(self.keep * scale.tokens), max(scale.tokens // 16, 1)
        steps = int(self.dropping * self._plain_steps(scale))
        return KeepSchedule(start, steps, end=scale.tokens, quantum=quantum)

    def budget(self, scale: Scale) -> float:
        """In layer-tokens."""
        return self.share * scale.budget

    def batch(self, scale: Scale) -> int:
        """Rows of a step."""
        if self.as_many_steps_as is None:
            return scale.batch
        steps = steps_of(ARMS[self.as_many_steps_as], scale)
        return max(int(self.budget(scale) / steps / scale.tokens), 1)

    def _plain_steps(self, scale: Scale) -> float:
        return self.budget(scale) / (scale.batch * scale.tokens)


_BOTH = Arm("both@50", 0.5, length=1 / 8, rarity=1, keep=1 / 8)

ARMS = {
    arm.name: arm
    for arm in (
        Arm("base@100", 1.0),
        Arm("base@50", 0.5),
        _BOTH,
        Arm("base@50, as many steps", 0.5, as_many_steps_as="both@50"),
        Arm("curriculum@50", 0.5, length=1 / 8, rarity=1),
        Arm("LTD@50", 0.5, keep=1 / 8),
        replace(_BOTH, name="both@100", share=1.0),
    )
}

IDEAS = {
    arm.name: arm
    for arm in (
        replace(_BOTH, name="both@50, keeping a half at first", keep=1 / 2),
        replace(_BOTH, name="both@50, dropping to the end", dropping=1.3),
        replace(_BOTH, name="both@50, without rarity", rarity=None),
        replace(_BOTH, name="both@50, rarity from 30 %", rarity=30),
        replace(_BOTH, name="both@50, curricula for 70 %", paced=0.7),
        replace(_BOTH, name="both@50, two layers drop", layers=(2, 3)),
        replace(_BOTH, name="both@50, all layers drop", layers="all"),
    )
}


@dataclass(frozen=True)
class Run:
    """An arm with a learning rate and a seed."""

    arm: Arm
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Tells runs apart."""
        return f"{self.arm.name}, rate {self.rate:g}, seed {self.seed}"


def steps_of(arm: Arm, scale: Scale) -> int:
    """Steps until the budget is used: arithmetic, nothing is trained."""
    length, schedule = arm.length_pacing(scale), arm.keep_schedule(scale)
    dropping = {"middle": scale.layers - 2, "all": scale.layers}.get(str(arm.layers), len(arm.layers)) / scale.layers
    used, steps, rows = 0.0, 0, arm.batch(scale)
    while used < arm.budget(scale):
        tokens = scale.tokens if length is None else int(length(steps))
        used += rows * ((1 - dropping) * tokens + dropping * schedule.kept(steps, tokens))
        steps += 1
    return steps


Losses = dict[tuple[str, float, int], float]
"""Of finished runs, by arm, rate and seed."""


def best_rate(arm: str, losses: Losses) -> float | None:
    """The learning rate with which an arm's first seed came out best; None before it has run."""
    tried = {rate: loss for (name, rate, seed), loss in losses.items() if name == arm and seed == 0}
    return min(tried, key=lambda rate: tried[rate]) if tried else None


def runs_in_order(rates: list[float], seeds: int, ideas: bool, losses: Losses) -> Iterator[Run]:
    """All runs, those first that tell most; which ones are last follows from the losses of those before.

    All arms with the first learning rate; with the other rates; with other seeds, each at its best rate; then the
    ideas, at the best rate of the arm that they depart from, and the best of them with the other seeds.
    """
    for rate in rates:
        yield from (Run(arm, rate, 0) for arm in ARMS.values())
    for seed in range(1, seeds):
        yield from (Run(arm, best_rate(arm.name, losses) or rates[0], seed) for arm in ARMS.values())
    if ideas:
        rate = best_rate(_BOTH.name, losses) or rates[0]
        yield from (Run(arm, rate, 0) for arm in IDEAS.values())
        best = min(IDEAS, key=lambda name: losses.get((name, rate, 0), float("inf")))
        yield from (Run(IDEAS[best], rate, seed) for seed in range(1, seeds))
