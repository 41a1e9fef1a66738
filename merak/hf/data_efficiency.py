"""Curricula and random layerwise token dropping in `Trainer`: what it takes of the room `data`, step by step.

    trainer = Trainer(
        ...,
        random_ltd=RandomLTDArguments(start=128),
        curriculum=CurriculumArguments("index", {"vocabulary_rarity": Pacing.root(1, 100, 8000, by="percentile")}),
        budget=BudgetArguments(layer_tokens=150e9, warmup=0.01),
    )

Everything is a function of the optimizer's step and of what was used before it, which checkpoints have, so that a
training is resumed exactly.
The curriculum takes the place of the sampler: it gives the rows of one optimizer's step after the other, which replicas
and accumulated batches then share as they share those of any sampler. Tokens to keep are drawn for each micro-batch,
and enter the engine's graphs as an input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Sampler

from merak.data import (
    Counters,
    CurriculumSampler,
    KeepSchedule,
    LayerTokenLR,
    MetricIndex,
    Pacing,
    RandomLTD,
    TruncateLength,
)
from merak.data.layers import Which

Batch = dict[str, Any]
AddUp = Callable[[Sequence[float]], Sequence[float]]
"""Sums numbers over replicas. Collective."""
COUNTED = ("layer_tokens", "raw_tokens", "sequences")


@dataclass(frozen=True)
class RandomLTDArguments:
    """Layers drop tokens (Z. Yao et al., "Random-LTD", 2022).

    Attributes:
        start: tokens that layers keep at first.
        steps: after which they keep all. Below 1 a share of the training's steps.
        end: tokens at the end of the way, if not all.
        quantum: kept lengths are multiples of it.
        layers: "middle", "all", numbers or names.
        seed: of the drawing; the training's, if not given.
        tokens: of a sequence as layers see it, for models that take no `input_ids`: a ViT's patches and its class.
        follow: of `merak.data.RandomLTD`.
    """

    start: int
    steps: float = 0.7
    end: int | None = None
    quantum: int = 16
    layers: Which = "middle"
    seed: int | None = None
    tokens: int | None = None
    follow: Mapping[str, tuple[int, ...]] | None = None

    def schedule(self, max_steps: int) -> KeepSchedule:
        """For a training of so many steps."""
        steps = self.steps * max_steps if 0 < self.steps < 1 else self.steps
        return KeepSchedule(self.start, int(steps), self.end, self.quantum)


@dataclass(frozen=True)
class CurriculumArguments:
    """Easy samples first (C. Li et al., "DeepSpeed Data Efficiency", 2022).

    Attributes:
        metrics: of `train_dataset`: what `merak.data.analyze` has made, the folder of it, or by metric a number a
            sample.
        pacings: by metric, what is admitted at which of the optimizer's steps.
        length: tokens that rows are truncated to, by step.
        seed: of the drawing; the data's or the training's, if not given.
    """

    metrics: MetricIndex | str | Path | Mapping[str, Any] | None = None
    pacings: Mapping[str, Pacing] = field(default_factory=dict)
    length: Pacing | None = None
    seed: int | None = None


@dataclass(frozen=True)
class BudgetArguments:
    """A training ends after so many layer-tokens, and its learning rate follows them instead of steps.

    Attributes:
        layer_tokens: of all replicas, at which the decay of the learning rate ends.
        warmup: layer-tokens until the learning rate is the highest. Below 1 a share of `layer_tokens`.
        style: of the decay: "cosine", "linear" or "constant".
        least_ratio: of the learning rate, in the end.
        stop: the training ends there, too; `num_train_epochs` or `max_steps` may end it before.
    """

    layer_tokens: float
    warmup: float = 0.0
    style: str = "cosine"
    least_ratio: float = 0.0
    stop: bool = True

    def rates(self, optimizer: torch.optim.Optimizer, counters: Counters) -> LayerTokenLR:
        """The learning rates of an optimizer."""
        warmup = self.warmup * self.layer_tokens if 0 < self.warmup < 1 else self.warmup
        return LayerTokenLR(
            optimizer,
            counters,
            decay_tokens=self.layer_tokens,
            warmup_tokens=warmup,
            least_ratio=self.least_ratio,
            style=self.style,
        )


@dataclass(frozen=True)
class DataArguments:
    """What a Trainer is told about data, together."""

    random_ltd: RandomLTDArguments | None = None
    curriculum: CurriculumArguments | None = None
    budget: BudgetArguments | None = None


class CurriculumOrder(Sampler[int]):
    """The samples of one optimizer's step after the other. An epoch has as many steps as the data set has whole ones.

    Args:
        curriculum: gives the samples of a step.
    """

    def __init__(self, curriculum: CurriculumSampler) -> None:
        self.curriculum, self._epoch = curriculum, 0
        self.steps = curriculum.samples // curriculum.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Before an epoch."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        for step in range(self._epoch * self.steps, (self._epoch + 1) * self.steps):
            yield from self.curriculum.batch(step)

    def __len__(self) -> int:
        return self.steps * self.curriculum.batch_size


class DataEfficiency:
    """What a Trainer does of all this. Without arguments, nothing.

    Args:
        model: changed in place, if it is to drop tokens.
        arguments: as the Trainer was given them.
        seeds: of dropping and of the curriculum, where the arguments have none.

    Raises:
        ValueError: the model's layers are not found; arguments do not fit.
    """

    def __init__(self, model: nn.Module, arguments: DataArguments, seeds: tuple[int, int]) -> None:
        random_ltd, curriculum = arguments.random_ltd, arguments.curriculum
        self._dropping, self._curriculum, self._seeds = random_ltd, curriculum, seeds
        self._budget = arguments.budget
        self.ltd: RandomLTD | None = None
        if random_ltd is not None:
            seed = seeds[0] if random_ltd.seed is None else random_ltd.seed
            schedule = KeepSchedule.constant(random_ltd.start)  # until the number of steps is known
            self.ltd = RandomLTD(model, random_ltd.layers, schedule=schedule, seed=seed, follow=random_ltd.follow)
        self._truncate = TruncateLength(curriculum.length) if curriculum and curriculum.length else None
        self._before = dict.fromkeys(COUNTED, 0.0)
        self.counters: Counters | None = None  # of this replica, since `_before`
        if random_ltd or curriculum or arguments.budget:
            self.counters = Counters(self.ltd)
        self._of_all = Counters()  # of all replicas, where learning rates ask for it

    def check_stream(self) -> None:
        """Raises ValueError if what is asked for cannot be had of a data set without a length."""
        if self._curriculum is not None and self._curriculum.pacings:
            raise ValueError("a curriculum chooses samples by their number, which those of a stream do not have")

    def sampler(self, dataset: Sized, rows: int) -> CurriculumOrder | None:
        """The order of a data set's samples; None for that of the Trainer.

        Args:
            rows: of an optimizer's step, over all replicas.

        Raises:
            ValueError: metrics and pacings do not fit the data, or a step.
        """
        arguments = self._curriculum
        if arguments is None or not arguments.pacings:
            return None
        seed = self._seeds[1] if arguments.seed is None else arguments.seed
        if rows > (samples := len(dataset)):
            raise ValueError(f"a step takes {rows} rows, and the data set has {samples}: take smaller batches")
        return CurriculumOrder(
            CurriculumSampler(arguments.metrics, arguments.pacings, batch_size=rows, seed=seed, samples=samples)
        )

    def begin(self, max_steps: int) -> None:
        """A training of so many steps begins."""
        if self.ltd is not None and self._dropping is not None:
            self.ltd.schedule = self._dropping.schedule(max_steps)

    def rates(self, optimizer: torch.optim.Optimizer) -> LayerTokenLR | None:
        """The learning rates of a training that begins; None for those of the Trainer."""
        self._of_all = Counters()
        if self._budget is None:
            return None
        for group in optimizer.param_groups:  # which may have been trained with before
            group["lr"] = group.setdefault("initial_lr", group["lr"])
        return self._budget.rates(optimizer, self._of_all)

    def shortened(self, batch: Batch, step: int) -> Batch:
        """A batch of an optimizer's step, its rows truncated."""
        return batch if self._truncate is None else self._truncate(batch, step)

    def microbatches(self, parts: Sequence[Batch], step: int, first: int = 0) -> list[Batch]:
        """Micro-batches of a step with what layers keep; `first` is the first one's number among those of all ranks."""
        if self.ltd is None or self._dropping is None:
            return list(parts)
        self.ltd.at(step)
        return self.ltd.with_indices(parts, first, length=self._dropping.tokens)

    def count(self, parts: Sequence[Batch], add_up: AddUp) -> bool:
        """A step was trained on these; whether it was the last that the budget allows. Collective with a budget."""
        if self.counters is None:
            return False
        for part in parts:
            self.counters.add(self._shape(part))
        if self._budget is None:
            return False
        self._of_all.layer_tokens = self.used(add_up)["layer_tokens"]
        return self._budget.stop and self._of_all.reached(layer_tokens=self._budget.layer_tokens)

    def used(self, add_up: AddUp) -> dict[str, float]:
        """What all replicas have used so far; nothing without arguments. Collective."""
        if self.counters is None:
            return {}
        mine = [getattr(self.counters, name) for name in COUNTED]
        used = {name: self._before[name] + one for name, one in zip(COUNTED, add_up(mine), strict=True)}
        return used | {"layer_tokens": self.counters.whole_parts(used["layer_tokens"])}

    def go_on(self, used: Mapping[str, float]) -> None:
        """Goes on counting from there."""
        if self.counters is not None:
            self._before = {name: float(used.get(name, 0.0)) for name in COUNTED}
            self.counters = Counters(self.ltd)
            self._of_all.layer_tokens = self._before["layer_tokens"]

    def _shape(self, part: Batch) -> tuple[int, int]:
        rows = next(len(value) for value in part.values() if isinstance(value, torch.Tensor) and value.dim())
        if self._dropping is not None and self._dropping.tokens:
            return rows, self._dropping.tokens
        return rows, int(part["input_ids"].shape[1]) if "input_ids" in part else 1
