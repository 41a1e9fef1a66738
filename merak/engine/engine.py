"""The engine: a model that is trained by many ranks, seen from one of them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from merak.engine import checkpoint
from merak.engine.agreement import Call, add_up, together
from merak.engine.build import undisturbed
from merak.engine.explaining import explain
from merak.engine.gathering import gather_into
from merak.engine.gradients import Gradients
from merak.engine.layout import Layout
from merak.engine.outputs import check_outputs, gather_outputs
from merak.engine.parameters import Owned
from merak.engine.precision import LossScale
from merak.engine.tensor_parallel import TensorParallel
from merak.engine.variants import Variant, Variants
from merak.graph.cutting import Cut
from merak.graph.losses import scales
from merak.graph.randomness import generators_kept
from merak.graph.stages import Stage
from merak.graph.trees import rebuild
from merak.pipeline.executor import explained
from merak.pipeline.microbatches import MicroBatch, count_targets, rows_of, split
from merak.pipeline.schedule import Schedule
from merak.planner.plan import Plan
from merak.sharding.same_on_all import bits_of

Batch = Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""What `model(**batch)` takes; or several of them, which are micro-batches as they are, and may differ in length."""


_COUNTS = 16
"""For so many terms of a loss there is room in what ranks sum before a step; for more, twice as many, and so on."""


class Evaluation(NamedTuple):
    """What `Engine.eval_step` gives: the mean loss over the global batch (None without labels), and the model's output
    for this replica's batch."""

    loss: float | None
    output: Any


class Engine:
    """Trains. Made by `merak.parallelize`; methods are collective over all ranks.

    Attributes:
        plan: what is run.
        cut: where stages begin, what they cost and recompute.
        schedule: what each pipeline rank does in a step.
        dp_rank, dp_size: which part of the global batch this rank is to be given.
        replicas: group of the ranks that have the same stages, by `dp_rank`.
        optimizer: of this rank's share of the parameters. Learning rate schedulers take it as it is.
        parameters: those that this rank's stages use, by the model's names.
        grad_norm: of the last step, over all parameters, before clipping; None if it was not needed.
        steps: how many optimizer steps were taken.
    """

    def __init__(
        self,
        plan: Plan,
        cut: Cut,
        schedule: Schedule,
        layout: Layout,
        tensor_parallel: TensorParallel,
        variants: Variants,
        owned: Owned,
        gradients: Gradients,
        optimizer: torch.optim.Optimizer,
        clip: float | None,
        device: torch.device,
    ) -> None:
        self.plan, self.cut, self.schedule, self.optimizer = plan, cut, schedule, optimizer
        self.dp_rank, self.dp_size = layout.dp_rank, layout.dp
        self.replicas: dist.ProcessGroup = layout.replicas
        self.parameters: dict[str, nn.Parameter] = owned.parameters
        self.grad_norm: float | None = None
        self.steps = 0
        self._layout, self._tensor_parallel = layout, tensor_parallel
        self._variants, self._owned, self._gradients = variants, owned, gradients
        self._clip, self._device = clip, device
        self._frozen = [name for name, parameter in owned.parameters.items() if not parameter.requires_grad]
        self._failure = ""
        self._scale = LossScale.for_precision(plan.precision)

    def train_step(self, batch: Batch) -> float:
        """Forward, backward, clipping and the optimizer's step. In what is computed is for the plan's precision to say:
        `torch.autocast` around a step is switched off in it.

        Args:
            batch: what `model(**batch)` takes, of this data-parallel rank, or a list of micro-batches; ranks of one
                replica give the same.

        Returns:
            The mean loss over the global batch, per target that is not ignored; on every rank.
        """
        with undisturbed(self._device):
            variant, microbatches = self._bind(batch, training=True)
            loss_output = _loss_of(variant)
            with self._whole():
                return self._train(variant, microbatches, loss_output)

    def _train(self, variant: Variant, microbatches: list[MicroBatch], loss_output: int) -> float:
        self._gradients.clear()
        with generators_kept(self._device):
            outputs = variant.executor(len(microbatches)).step(
                microbatches, {loss_output}, loss_output, self._scale.value
            )
        with self._during("summing gradients"):
            self._gradients.finish()
        with self._during("summing the loss and the gradients' norm"):
            loss, norm = self._agree(self._loss_share(outputs, loss_output))
        scale = self._scale.value  # the one that these gradients have; the next step's may be another
        if self._scale.update(norm):
            self._scale_gradients(norm, scale)
            self.optimizer.step()
            with self._during("gathering parameters"):
                self._gradients.gather()
            self.steps += 1
        return loss

    def eval_step(self, batch: Batch, *, output: bool = True) -> Evaluation:
        """The loss and the model's output in evaluation mode, without gradients.

        Args:
            batch: as in `train_step`, with or without labels.
            output: also give the output, on every rank of the replica; else only the loss.
        """
        with undisturbed(self._device):
            variant, microbatches = self._bind(batch, training=False, output=output)
            with self._whole():
                return self._evaluate(variant, microbatches, output)

    def _evaluate(self, variant: Variant, microbatches: list[MicroBatch], output: bool) -> Evaluation:
        captured = variant.prepared.captured
        wanted = range(len(captured.outputs)) if output else [captured.loss] if captured.loss is not None else []
        with generators_kept(self._device), torch.no_grad():
            made = variant.executor(len(microbatches)).step(microbatches, wanted)
        loss = None
        if captured.loss is not None:
            (loss,) = add_up([self._loss_share(made, captured.loss)], self._layout.everyone, self._device)
        if not output:
            return Evaluation(loss, None)
        leaves = gather_outputs(variant, microbatches, made, self._layout, self.schedule, self._device)
        if captured.loss is not None:
            leaves[captured.loss] = torch.tensor(loss, device=self._device)
        return Evaluation(loss, rebuild(captured.template, captured.all_leaves(leaves)))

    def forward(self, batch: Batch) -> Any:
        """The model's output in evaluation mode, on every rank of the replica."""
        return self.eval_step(batch).output

    @property
    def stages(self) -> Sequence[Stage]:
        """The graphs of all stages in training, with the values that they send."""
        return self._variants.first.stages

    def explain(self, width: int = 120) -> str:
        """The plan, its stages with what they send, and a chart of a step by the model that they were cut by."""
        first = self._variants.first
        text = explain(self.plan, self.cut, first.stages, first.prepared.terms, self.schedule, width)
        return "\n".join(filter(None, [text, self._tensor_parallel.explain()]))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """This rank's part of a checkpoint: `model.<name>` and `optimizer.<name>.<key>`, by the plain model's names. An
        optimizer that has not stepped has no state. Tensors are whole: with `tp`, this is collective."""
        return self._part().tensors()

    def save(self, path: str | Path, extra: Mapping[str, Any] | None = None) -> None:
        """Writes a checkpoint, which an engine with any other plan can load, and the plain model (`load_into`). A
        checkpoint that is there already stays until the new one is whole.

        Args:
            path: a folder, the same for all ranks.
            extra: what `load` is to give back: the place in the data, a scheduler's state; anything that JSON can hold.
                Where ranks give different ones, rank 0's.

        Raises:
            ValueError: a rank cannot write, or `extra` is no JSON.
        """
        scale = [self._scale.value, self._scale.steady]
        progress = {"steps": self.steps, "loss_scale": scale, "extra": {} if extra is None else extra}
        checkpoint.save(path, self._part(), progress)

    def load(self, path: str | Path) -> dict[str, Any]:
        """Goes on from a checkpoint, whatever plan it was written under; returns its `extra`.

        Raises:
            ValueError: it is not one, or is damaged, or of another model or optimizer; the engine is as it was.
        """
        progress = checkpoint.load(path, self._part())
        self.steps = progress["steps"]
        if self._scale.moves:
            self._scale.value, self._scale.steady = progress["loss_scale"]
        extra: dict[str, Any] = progress["extra"]
        return extra

    def _part(self) -> checkpoint.Part:
        owned = self._owned
        return checkpoint.Part(owned.state, self.optimizer, self._gradients.own, owned.division, self._device)

    def gather_into(self, model: nn.Module) -> None:
        """Gives a plain model, on every rank, the parameters and buffers that all ranks have trained. In place; it may
        be the model that was given to `parallelize`."""
        division = self._owned.division
        gather_into(model, {name: division.whole(name, one) for name, one in self._owned.state.items()}, self._device)

    def take_from(self, model: nn.Module) -> None:
        """The inverse of `gather_into`: what this rank has of the model gets the values of a plain one, the same on all
        ranks. The optimizer's state stays.

        Raises:
            ValueError: it is another model.
        """
        values, division = model.state_dict(), self._owned.division
        with together("taking a model's values", self._device):
            for name, tensor in self._owned.state.items():
                if name not in values or list(values[name].shape) != division.shape(name, tensor):
                    raise ValueError(f"the model given is another one: it has no {name} of that shape")
        with torch.no_grad():
            for name, tensor in self._owned.state.items():
                tensor.copy_(division.part(name, values[name]))

    def _bind(self, batch: Batch, training: bool, output: bool = False) -> tuple[Variant, list[MicroBatch]]:
        """The graph for a batch, and its micro-batches with their scales. What does not fit one rank is refused by all,
        before anything else moves."""
        self._check_usable()
        problem: Exception | None = None
        variant, bound = self._variants.first, list[MicroBatch]()
        counts = [0.0] * len(variant.prepared.terms.counts)
        try:
            variant, bound = self._variants.bind(self._parts(batch), training, self.dp_rank * self.plan.microbatches)
            counts = count_targets(variant.prepared.terms, bound)
            if thawed := [name for name in self._frozen if training and self.parameters[name].requires_grad]:
                raise ValueError(
                    f"{', '.join(thawed[:5])} had no gradient when the engine was made, and its graphs give it none: "
                    "make a new engine, and load the last checkpoint"
                )
            if output:
                check_outputs(variant, bound)
        except Exception as error:  # whatever it is, other ranks wait to hear of it
            problem = error
        all_rows, totals = self._sums(self._call(variant, bound, training, output), problem, bound, counts)
        for one in bound:
            one.inputs = {path: _usable(leaf, self._device) for path, leaf in one.inputs.items()}
            one.scales = scales(variant.prepared.terms, totals, one.rows, all_rows)
        for runner in variant.runners.values():
            runner.step = self.steps
        return variant, bound

    def _sums(
        self, call: Call, problem: Exception | None, bound: Sequence[MicroBatch], counts: Sequence[float]
    ) -> tuple[int, list[float]]:
        """The rows and the counts of the global batch. Raises on all ranks if one has a problem, or is called in
        another way."""
        # All ranks of a replica have the same batch: one counts. All must send as many numbers, and a rank that refuses
        # does not know how many counts there are.
        mine = [sum(one.rows for one in bound), *counts] if self._layout.in_replica == 0 else []
        mine += [0.0] * (1 + _COUNTS * max(1, math.ceil(len(counts) / _COUNTS)) - len(mine))
        mine = [float(problem is not None), *call.differences(self._layout), *mine]
        with self._whole(), self._during("counting the batch's targets"):
            refusing, calls_differ, batches_differ, all_rows, *totals = add_up(
                mine, self._layout.everyone, self._device
            )
        if problem is not None:
            raise problem
        if refusing:
            raise ValueError(f"the batches of {int(refusing)} other ranks do not fit; they say how")
        if calls_differ or batches_differ:
            raise call.refusal(self._layout, self._device)
        return int(all_rows), totals[: len(counts)]

    def _call(self, variant: Variant, bound: Sequence[MicroBatch], training: bool, output: bool) -> Call:
        captured, terms = variant.prepared.captured, len(variant.prepared.terms.counts)
        what = f"a step of {'training' if training else 'evaluation'} after {self.steps}"
        what += f", with a loss of {terms} terms" if captured.loss is not None else ", without a loss"
        given = [", ".join(f"{path} {tuple(leaf.shape)}" for path, leaf in one.inputs.items()) for one in bound]
        lines = [f"a micro-batch of {one}" for one in given]
        return Call(what + (", with the model's output" if output else ""), "\n".join([*lines, *_contents(bound)]))

    def _parts(self, batch: Batch) -> list[Mapping[str, Any]]:
        if not isinstance(batch, Mapping):
            if not isinstance(batch, Sequence) or not batch or not all(isinstance(one, Mapping) for one in batch):
                raise ValueError("a batch is a mapping, what `model(**batch)` takes, or a list of several of them")
            return list(batch)
        return list(split(batch, min(self.plan.microbatches, rows_of(batch))))

    def _loss_share(self, outputs: Sequence[Mapping[int, torch.Tensor]], loss: int) -> float:
        """What this rank adds to the loss. All that share a layer have the same: one counts."""
        return float(sum(one[loss] for one in outputs if loss in one)) if self._layout.tp_rank == 0 else 0.0

    def _agree(self, loss_share: float) -> tuple[float, float]:
        """The loss, and the norm of all gradients, each parameter's once."""
        squares = 0.0
        if (self._clip is not None or self._scale.moves) and (self.dp_rank == 0 or not self._gradients.are_whole):
            counted = [one.grad for name, one in self._gradients.own.items() if name in self._owned.counted]
            norms = torch._foreach_norm([one for one in counted if one is not None]) if counted else []
            squares = sum(float(norm.double().square()) for norm in norms)
        loss, all_squares = add_up([loss_share, squares], self._layout.everyone, self._device)
        return loss, all_squares**0.5 / self._scale.value

    def _check_usable(self) -> None:
        if self._failure:
            raise RuntimeError(
                "this engine cannot go on: an earlier step of it failed half way, after which ranks may differ in "
                f"parameters and in the messages that they expect ({self._failure}). Make a new engine (`parallelize`, "
                "best in new processes) and load the last checkpoint"
            )

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """What must happen as a whole: when it fails, or is interrupted, the engine is of no use any more. The other
        ranks, which wait for this one's messages, hear of it at once."""
        try:
            yield
        except BaseException as error:
            self._failure = f"{type(error).__name__}: {error}"
            self._layout.end(self._failure)
            raise

    @contextlib.contextmanager
    def _during(self, what: str) -> Iterator[None]:
        """Puts into errors of communication where they happened."""
        try:
            yield
        except (dist.DistBackendError, dist.DistNetworkError) as error:
            stages = " and ".join(map(str, self.schedule.stages_of(self._layout.pp_rank)))
            raise explained(error, f"stage {stages}, step {self.steps}, {what}") from error

    def _scale_gradients(self, norm: float, scale: float) -> None:
        """Takes the loss's scale back, and clips as `torch.nn.utils.clip_grad_norm_` does. What is frozen has none."""
        self._gradients.drop_frozen()
        factor = 1 / scale
        self.grad_norm = norm if self._clip is not None or self._scale.moves else None
        if self._clip is not None and self._clip < float("inf"):
            # In this order a norm that is no number makes all gradients so, as in torch: min(1.0, nan) would be 1.
            factor *= min(self._clip / (norm + 1e-6), 1.0)
        if factor != 1:
            self._gradients.scale(factor)


def _usable(leaf: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of a batch, on the engine's device. Autograd cannot keep what was made in inference mode."""
    leaf = leaf.to(device, non_blocking=True)
    return leaf.clone() if leaf.is_inference() else leaf


def _contents(microbatches: Sequence[MicroBatch]) -> list[str]:
    """By path, a sum of what is in a batch: ranks of one replica that draw it in other ways would never notice."""
    sums: dict[str, int] = {}
    for number, one in enumerate(microbatches, 1):
        for path, leaf in one.inputs.items():
            sums[path] = sums.get(path, 0) + number * bits_of(leaf)
    return [f"values of {path} whose bits sum to {total}" for path, total in sums.items()]


def _loss_of(variant: Variant) -> int:
    loss = variant.prepared.captured.loss
    if loss is None:
        raise ValueError("the model's output has no loss: give labels in the batch, or loss_fn to parallelize")
    return loss
