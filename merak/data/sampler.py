"""Batches of the samples that a curriculum admits, the same for any number of ranks and workers.

At every step a batch of the whole training, of `batch_size` samples, is drawn from those admitted, without replacement
(csrc/data/deck.h), and each rank takes its part of it. It is a function of the samples' metrics, the pacings, the seed
and the step: so the state of a sampler is the seed and a step, ranks need not tell each other anything, and a training
goes on with the same batches on another number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from merak import _C
from merak.data.index import MetricIndex
from merak.data.pacing import Pacing

Values = npt.NDArray[Any]


class BatchState(NamedTuple):
    """Where a batch belongs; travels with it through the workers of a data loader.

    Attributes:
        seed, step: of the batch; `step + 1` is what to go on with.
        epoch: passes over the admitted samples that had ended before.
        admitted: samples that are admitted.
        sequences: samples that had been drawn before, by all ranks.
        difficulties: by metric, what is admitted.
    """

    seed: int
    step: int
    epoch: int
    admitted: int
    sequences: int
    difficulties: dict[str, float]


class Batch(list[int]):
    """The samples of a rank's batch, with its `state`."""

    def __init__(self, samples: list[int], state: BatchState) -> None:
        super().__init__(samples)
        self.state = state

    def __reduce__(self) -> tuple[Any, ...]:
        return Batch, (list(self), self.state)


class CurriculumSampler(Sampler[Batch]):
    """A batch sampler for `torch.utils.data.DataLoader(dataset, batch_sampler=...)`, or `merak.data.CurriculumLoader`.

        pacing = Pacing.root(1, 100, steps=110_000, degree=2, by="percentile")
        sampler = CurriculumSampler("index", {"vocabulary_rarity": pacing}, batch_size=512, total_steps=286_000)

    A sample is admitted once all its metrics are. Samples that no step admits (harder than the end of a pacing by
    value) are never drawn. Iterating begins at `step` and ends before `total_steps`.

    Args:
        metrics: what `merak.data.analyze` has made, or the folder of it; or by metric one number a sample.
        pacings: by metric. Empty: all samples are admitted, and `samples` says how many there are.
        batch_size: samples of a batch, of all ranks together.
        seed: of the drawing.
        rank, world_size: which part of each batch is drawn here; `batch_size` is divided by `world_size`.
        total_steps: after which iterating ends; None for never.
        samples: how many there are, where there are no metrics.

    Raises:
        ValueError: there are no samples; a metric does not exist, has NaN or a wrong number of values; the first step
            admits fewer samples than a batch has, or none; sizes and ranks do not fit.
    """

    def __init__(
        self,
        metrics: MetricIndex | str | Path | Mapping[str, Values] | None = None,
        pacings: Mapping[str, Pacing] | None = None,
        *,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        total_steps: int | None = None,
        samples: int | None = None,
    ) -> None:
        if batch_size < 1 or world_size < 1 or not 0 <= rank < world_size:
            raise ValueError(f"batch of {batch_size}, rank {rank} of {world_size}: none of them can be")
        if batch_size % world_size:
            raise ValueError(f"a batch of {batch_size} cannot be divided among {world_size} ranks: make it a multiple")
        if seed < 0:
            raise ValueError(f"the seed is {seed}; it must be 0 or more")
        self.batch_size, self.seed = batch_size, seed
        self.rank, self.world_size, self.total_steps = rank, world_size, total_steps
        self.pacings = dict(pacings or {})
        self.step = 0
        values = _values_of(metrics, self.pacings)
        self.samples = _count(values, samples)
        self._deck = _deck(values, self.pacings, self.samples, batch_size, seed)

    def batch(self, step: int) -> Batch:
        """This rank's part of the batch of a step. Steps in their order are fastest."""
        drawn, epoch, admitted = self._deck.draw(step)
        share = self.batch_size // self.world_size
        difficulties = {name: pacing(step) for name, pacing in self.pacings.items()}
        state = BatchState(self.seed, step, epoch, admitted, step * self.batch_size, difficulties)
        return Batch(drawn[self.rank * share : (self.rank + 1) * share], state)

    def __iter__(self) -> Iterator[Batch]:
        while self.total_steps is None or self.step < self.total_steps:
            batch = self.batch(self.step)
            self.step += 1  # before the yield: a state asked for in between is that of the next batch
            yield batch

    def __len__(self) -> int:
        if self.total_steps is None:
            raise TypeError("a CurriculumSampler without total_steps has no length")
        return max(self.total_steps - self.step, 0)

    def admitted(self, step: int) -> int:
        """Samples that are admitted at a step."""
        return self._deck.admitted(step)

    @property
    def never_admitted(self) -> int:
        """Samples that no step admits."""
        return self.samples - self._deck.samples

    def state_dict(self) -> dict[str, int]:
        """Which batch is next. With workers, a DataLoader has asked for more than it gave: see CurriculumLoader."""
        return {"seed": self.seed, "step": self.step, "batch_size": self.batch_size, "samples": self.samples}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Goes on from there; on any rank, with any number of them.

        Raises:
            ValueError: the state is of another stream: seed, batch size or number of samples are others.
        """
        for name, mine in (("seed", self.seed), ("batch_size", self.batch_size), ("samples", self.samples)):
            if state.get(name, mine) != mine:
                raise ValueError(
                    f"the state has {name} {state[name]}, this sampler {mine}: its batches would be others. Make the "
                    "sampler as it was"
                )
        self.step = state["step"]


def _values_of(
    metrics: MetricIndex | str | Path | Mapping[str, Values] | None, pacings: Mapping[str, Pacing]
) -> dict[str, Values]:
    if metrics is None:
        if pacings:
            raise ValueError(f"there is a pacing of {next(iter(pacings))!r}, but no metrics are given")
        return {}
    if isinstance(metrics, (str, Path)):
        metrics = MetricIndex.load(metrics)
    if isinstance(metrics, MetricIndex):
        return {name: metrics.values(name) for name in pacings or metrics.names}
    if missing := [name for name in pacings if name not in metrics]:
        raise ValueError(f"there is a pacing of {missing[0]!r}; the metrics are {', '.join(metrics) or 'none'}")
    return {name: np.asarray(metrics[name]) for name in pacings or metrics}


def _count(values: Mapping[str, Values], samples: int | None) -> int:
    counts = {len(one) for one in values.values()} | (set() if samples is None else {samples})
    if len(counts) > 1:
        raise ValueError(f"the metrics, and `samples`, are of different numbers of samples: {sorted(counts)}")
    if not counts:
        raise ValueError("without metrics, say how many samples there are: samples=len(dataset)")
    count = counts.pop()
    if count < 1:
        raise ValueError("the data set is empty: there is nothing to draw from")
    if count >= 1 << 32:
        raise ValueError(f"{count} samples are too many: fewer than 2^32 can be ordered; split the data set")
    return count


def _deck(
    values: Mapping[str, Values], pacings: Mapping[str, Pacing], samples: int, batch_size: int, seed: int
) -> _C.CurriculumDeck:
    limits = []
    for name, pacing in pacings.items():
        numbers = values[name]
        if np.isnan(numbers).any():
            sample = int(np.flatnonzero(np.isnan(numbers))[0])
            raise ValueError(
                f"metric {name!r} of sample {sample} is not a number (NaN): mend it, or leave the sample out"
            )
        limits.append((np.asarray(numbers, dtype=np.float64), pacing.table(), pacing.by == "percentile"))
    try:
        return _C.CurriculumDeck(samples, limits, batch_size, seed)
    except ValueError as error:
        starts = ", ".join(f"{name} up to {pacing(0):g} by {pacing.by}" for name, pacing in pacings.items())
        raise ValueError(f"{error} (admitted at first: {starts or 'everything'}; samples: {samples})") from error
