"""What a training has used so far, in four numbers that are easily taken for each other.

Effective *layer-tokens*: tokens times the layers that processed them, divided by the number of layers; a layer that
keeps r of S tokens counts r / S of one. *Raw tokens*: tokens that were embedded. *Sequences*: rows that were drawn,
however short they were cut. *FLOPs*: of forward and backward, counted. ("Half the data" in C. Li et al., "DeepSpeed
Data Efficiency", 2022, is half of the layer-tokens.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from merak.data.layers import find_stack
from merak.data.random_ltd import RandomLTD


@dataclass
class Counters:
    """Counts; `str(counters)` is a line of them, `counters.log()` a dictionary.

        counters = Counters(ltd, flops=step_flops(ltd, batch))
        ...
        counters.add(batch["input_ids"].shape, drawn=len(batch["input_ids"]))

    Attributes:
        ltd: what drops tokens; None where all layers see all.
        flops: of a step with so many rows of so many tokens, so many of which are kept.
    """

    ltd: RandomLTD | None = None
    flops: Callable[[int, int, int], float] | None = None
    layer_tokens: float = 0.0
    raw_tokens: int = 0
    sequences: int = 0
    total_flops: float = 0.0
    _layers: int = field(default=0, repr=False)

    def __post_init__(self) -> None:
        if self.ltd is not None and not self._layers:
            self._layers = _count_layers(self.ltd)

    def add(self, shape: tuple[int, ...] | torch.Size, *, drawn: int | None = None, ranks: int = 1) -> float:
        """A batch was trained on; before `ltd.step()`. Its layer-tokens.

        Args:
            shape: of the tokens, `[rows, tokens]`.
            drawn: sequences of the data set that they came from, if not one a row.
            ranks: that trained on such a batch each.
        """
        rows, length = shape[:2]
        kept = length if self.ltd is None else self.ltd.kept(length)
        share = 1.0
        if self.ltd is not None:
            dropping = len(self.ltd.layers) / self._layers
            share = 1 - dropping + dropping * kept / length
        self.layer_tokens = self.whole_parts(self.layer_tokens + (added := rows * length * share * ranks))
        self.raw_tokens += rows * length * ranks
        self.sequences += (rows if drawn is None else drawn) * ranks
        if self.flops is not None:
            self.total_flops += self.flops(rows, length, kept) * ranks
        return added

    def whole_parts(self, layer_tokens: float) -> float:
        """The nearest number of layer-tokens that there can be, whatever the order in which they were summed."""
        layers = max(self._layers, 1)
        return round(layer_tokens * layers) / layers

    def reached(self, *, layer_tokens: float | None = None, raw_tokens: int | None = None) -> bool:
        """Whether as many, of one or the other, have been used: a training that is to stop by tokens asks this."""
        if layer_tokens is None and raw_tokens is None:
            raise ValueError("say after how many layer_tokens, or raw_tokens, to stop")
        enough = layer_tokens is not None and self.layer_tokens >= layer_tokens
        return enough or (raw_tokens is not None and self.raw_tokens >= raw_tokens)

    def log(self) -> dict[str, float]:
        """The four numbers, by name."""
        return {
            "layer_tokens": self.layer_tokens,
            "raw_tokens": self.raw_tokens,
            "sequences": self.sequences,
            "flops": self.total_flops,
        }

    def __str__(self) -> str:
        flops = f"{self.total_flops:.3e} FLOPs" if self.flops else "FLOPs not counted"
        drawn = f"{self.sequences:,} sequences"
        return f"{self.layer_tokens:,.0f} layer-tokens, {self.raw_tokens:,} raw tokens, {drawn}, {flops}"

    def state_dict(self) -> dict[str, float]:
        """As `log`."""
        return self.log()

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Goes on counting from there."""
        self.layer_tokens, self.total_flops = float(state["layer_tokens"]), float(state["flops"])
        self.raw_tokens, self.sequences = int(state["raw_tokens"]), int(state["sequences"])


@dataclass(frozen=True)
class StepFlops:
    """FLOPs of a forward and backward, as a function of rows, tokens and kept tokens.

    A layer's are a polynomial of the tokens that it sees, linear in them for its matrices and quadratic for attention;
    what lies outside the stack is linear. So a few counts give all:

        rows * (outside S + (L - K) (linear S + quadratic S^2) + K (linear r + quadratic r^2))

    with L layers, K of which keep r of S tokens.
    """

    outside: float
    linear: float
    quadratic: float
    layers: int
    dropping: int

    def __call__(self, rows: int, length: int, kept: int) -> float:
        full, part = self.of_layer(length), self.of_layer(kept)
        return rows * (self.outside * length + (self.layers - self.dropping) * full + self.dropping * part)

    def of_layer(self, tokens: int) -> float:
        """Of one layer, for one row of so many tokens."""
        return self.linear * tokens + self.quadratic * tokens * tokens


def step_flops(ltd: RandomLTD, batch: Mapping[str, Any]) -> StepFlops:
    """Counts the FLOPs of a model's step, by torch's `FlopCounterMode`; three forwards and backwards of one row.

    Leaves the gradients as they were.

    Args:
        batch: what the model takes, `[rows, tokens, ...]`, 4 tokens or more; it must have a loss.
    """
    one = {name: value[:1] if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    gradients = [parameter.grad for parameter in ltd.model.parameters()]
    was_training = ltd.model.training
    lengths: list[int] = []
    watch = ltd.layers[0].register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append((args[0] if args else next(iter(kwargs.values()))).shape[1]),
        with_kwargs=True,
    )
    try:
        ltd.model.train()
        with ltd.using({}):
            whole = _count(ltd.model, one)
        length = lengths[0]
        if length < 4:
            raise ValueError(f"FLOPs are counted on {length} tokens a row; give a batch of 4 or more")
        few, some = length // 4, length // 2
        counts = []
        for kept in (few, some):
            with ltd.using({number: _first(kept, ltd) for number in range(len(ltd.layers))}):
                counts.append(_count(ltd.model, one))
    finally:
        watch.remove()
        ltd.model.train(was_training)
        for parameter, gradient in zip(ltd.model.parameters(), gradients, strict=True):
            parameter.grad = gradient
    return _fit(whole, counts, (few, some, length), _count_layers(ltd), len(ltd.layers))


def _fit(whole: float, counts: list[float], lengths: tuple[int, int, int], layers: int, dropping: int) -> StepFlops:
    few, some, length = lengths
    # Two differences, of one layer: linear (S - r) + quadratic (S^2 - r^2), divided by S - r.
    first, second = (
        (whole - count) / dropping / (length - kept) for count, kept in zip(counts, (few, some), strict=True)
    )
    quadratic = (second - first) / (some - few)
    linear = first - quadratic * (length + few)
    outside = whole / length - layers * (linear + quadratic * length)
    return StepFlops(outside, linear, quadratic, layers, dropping)


def _first(kept: int, ltd: RandomLTD) -> torch.Tensor:
    device = next(ltd.model.parameters()).device
    return torch.arange(kept, device=device).unsqueeze(0)


def _count(model: nn.Module, batch: Mapping[str, Any]) -> float:
    for parameter in model.parameters():
        parameter.grad = None
    with FlopCounterMode(display=False) as counter:
        model(**batch).loss.backward()
    return float(counter.get_total_flops())


def _count_layers(ltd: RandomLTD) -> int:
    try:
        return len(find_stack(ltd.model)[1])
    except ValueError:  # its layers were named
        return len(ltd.layers)
