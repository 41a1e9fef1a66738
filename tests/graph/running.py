"""Captured models run in this process: whole, or cut into stages; with the plain model beside."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from merak.graph import Prepared, prepare
from merak.graph.capture import LossFunction
from merak.graph.losses import scales
from merak.graph.stages import Stage
from merak.pipeline.microbatches import MicroBatch, bind, split
from merak.pipeline.stage_runner import StageRunner

Tensors = dict[str, torch.Tensor]


class Run:
    """A prepared model, run stage by stage over the micro-batches of one batch.

    Attributes:
        losses: each micro-batch's share.
        outputs: of each micro-batch, the model's by path.
        gradients: by name, of the parameters of a copy of the model; None where there is none.
        buffers: of the copy.
    """

    def __init__(
        self,
        model: nn.Module,
        prepared: Prepared,
        batch: Mapping[str, Any],
        *,
        microbatches: int = 1,
        boundaries: Sequence[int] = (),
        recomputed: Sequence[int] | None = None,
        kept: Collection[str] = (),
        seed: int = 0,
        step: int = 0,
    ) -> None:
        self.model = copy.deepcopy(model)
        trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.stages = prepared.cuttable.cut(boundaries, recomputed, trainable, kept)
        self._prepared, self._again = prepared, recomputed is not None
        self._runners = [StageRunner(stage, self._tensors(), seed) for stage in self.stages]
        self.losses: list[float] = []
        self.outputs: list[dict[str, Any]] = []
        parts = [bind(prepared.captured, part, index) for index, part in enumerate(split(batch, microbatches))]
        self._scale(parts)
        for runner in self._runners:
            runner.step = step
        for part in parts:
            self._run(part)
        self.gradients = {name: parameter.grad for name, parameter in self.model.named_parameters()}
        self.buffers = dict(self.model.named_buffers())

    @property
    def loss(self) -> float:
        return sum(self.losses)

    def _tensors(self) -> dict[tuple[str, str], torch.Tensor]:
        tensors: dict[tuple[str, str], torch.Tensor] = {}
        tensors |= {("parameter", name): one for name, one in self.model.named_parameters()}
        tensors |= {("buffer", name): one for name, one in self.model.named_buffers()}
        return tensors | {("constant", key): one for key, one in self._prepared.captured.constants.items()}

    def _scale(self, parts: Sequence[MicroBatch]) -> None:
        terms = self._prepared.terms
        totals = [sum(count(one.inputs, one.sizes) for one in parts) if count else 0.0 for count in terms.counts]
        rows = sum(one.rows for one in parts)
        for one in parts:
            one.scales = scales(terms, totals, one.rows, rows)

    def _run(self, part: MicroBatch) -> None:
        captured = self._prepared.captured
        made: dict[int, Any] = {}
        travelling: Tensors = {}
        training = captured.training and captured.loss is not None
        for stage, runner in zip(self.stages, self._runners, strict=True):
            received = {value.name: travelling[value.name].detach().clone() for value in stage.received}
            results = runner.forward(part.index, part, received, checkpointed=self._again, grad=training)
            travelling |= {value.name: results[value.name] for value in stage.sent}
            made |= {number: results[name] for number, name in stage.outputs.items()}
        self.outputs.append({path: made.get(number) for number, path in enumerate(captured.outputs)})
        if captured.loss is None:
            return
        self.losses.append(float(made[captured.loss]))
        if training:
            self._backward(part, captured.loss)

    def _backward(self, part: MicroBatch, loss: int) -> None:
        gradients: dict[tuple[int, str], torch.Tensor] = {}
        for stage, runner in reversed(list(zip(self.stages, self._runners, strict=True))):
            if self._again:
                runner.recompute(part.index)
            given = {name: gradients[stage.index, name] for name in _sent(stage) if (stage.index, name) in gradients}
            if loss in stage.outputs:
                name = stage.outputs[loss]
                given[name] = given[name] + 1 if name in given else torch.ones(())
            back = runner.backward(part.index, given)
            for value in stage.received:
                if value.has_gradient:
                    key = value.producer, value.name
                    gradients[key] = gradients[key] + back[value.name] if key in gradients else back[value.name]


def _sent(stage: Stage) -> list[str]:
    return [value.name for value in stage.sent]


def run(
    model: nn.Module,
    batch: Mapping[str, Any],
    *,
    example: Mapping[str, Any] | None = None,
    training: bool = True,
    loss_fn: LossFunction | None = None,
    **how: Any,
) -> Run:
    """Prepares a model on an example (the batch, by default) and runs it on a batch."""
    return Run(model, prepare(model, example or batch, training=training, loss_fn=loss_fn), batch, **how)


def plain_gradients(model: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor | None]:
    """Of a loss that was computed with this model; the model keeps none."""
    for parameter in model.parameters():
        parameter.grad = None
    loss.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = None
    return found


def assert_same_gradients(
    found: Mapping[str, torch.Tensor | None], expected: Mapping[str, torch.Tensor | None], tolerance: float = 1e-5
) -> None:
    """Each to within the tolerance of its norm and a tenth of it of all gradients'; what has none must have none, or
    zeros."""
    norms = [float(one.norm()) for one in expected.values() if one is not None]
    slack = tolerance / 10 * sum(norm**2 for norm in norms) ** 0.5
    for name, theirs in expected.items():
        mine = found[name]
        if theirs is None or mine is None:
            other = mine if theirs is None else theirs
            assert other is None or not other.any(), f"{name}: {mine} for {theirs}"
            continue
        difference = float((mine - theirs).norm())
        assert difference <= tolerance * float(theirs.norm()) + slack, f"{name} is off by {difference:.3g}"
