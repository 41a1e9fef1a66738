"""The same training in one process and on many ranks, and what differs.

The reference is the plain model in one process. It runs the micro-batches of all data-parallel ranks in order, each
with the mean loss of its targets times their share of all targets; then it clips, and steps. AdamW has a large eps, so
that it does not blow up what differs in the last bits of gradients that are zero but for rounding.

On ranks, captures are kept: one serves all plans that a rank tries with a model.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any
from unittest import mock

import torch
from torch import fx, nn

from merak.engine import Plan, build, parallelize
from merak.graph.capture import LossFunction
from merak.graph.losses import scales
from merak.graph.prepare import Prepared, prepare
from merak.graph.randomness import RandomState
from merak.graph.trees import flatten
from merak.pipeline.microbatches import MicroBatch, bind, split
from tests.backend.harness import Context
from tests.engine import zoo

STEPS = 5
CLIP = 0.5
Tensors = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Trial:
    """A model trained by a plan.

    Attributes:
        rows: of each data-parallel rank's batch, in turn.
        shared_batch: the first of `rows` is that of the global batch, which is divided among data-parallel ranks.
    """

    model: str
    plan: Plan
    rows: tuple[int, ...] = (5, 4)
    dropout: float = 0.0
    dtype: torch.dtype = torch.float32
    shared_batch: bool = False

    def batches(self, dp_rank: int) -> list[zoo.Batch]:
        if self.shared_batch:
            wholes = [zoo.batch_of(self.model, self.rows[0], step, self.dtype) for step in range(STEPS)]
            return [split(whole, self.plan.dp)[dp_rank] for whole in wholes]
        rows = self.rows[dp_rank % len(self.rows)]
        return [zoo.batch_of(self.model, rows, 10 * dp_rank + step, self.dtype) for step in range(STEPS)]

    @property
    def loss_fn(self) -> LossFunction | None:
        specimen = zoo.ZOO[self.model]
        double = self.dtype == torch.float64 and specimen.targets is zoo.after_shift
        return zoo.loss_in_double if double else specimen.loss_fn

    def build(self) -> nn.Module:
        return zoo.make(self.model, self.dropout, self.dtype)


def compared_in(model: str, plan: Plan) -> torch.dtype:
    """In fp64, where what rounds otherwise in fp32, be it the order of a sum, grows sixty-fold in these five steps: one
    process itself is 2.2 times what is allowed from its own run in fp64 at Gemma 3's second step (Llama: 0.1), and 900
    times at ResNet's with micro-batches of one row, since its norms divide by their variances."""
    in_double = model == "gemma3" or (model == "resnet" and (max(plan.widths) > 1 or plan.microbatches >= 8))
    return torch.float64 if in_double else torch.float32


@dataclasses.dataclass
class Outcome:
    """What a training has come to.

    Attributes:
        gradients: clipped, of the first and of the last step.
        buffers: of the model; empty where replicas have different ones.
    """

    losses: list[float]
    gradients: list[Tensors]
    parameters: Tensors
    buffers: Tensors


def optimizer_of(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-2, eps=1e-4, weight_decay=0.1)


# One process ---------------------------------------------------------------------------------------------------------


def in_one_process(trial: Trial) -> Outcome:
    """The reference."""
    specimen = zoo.ZOO[trial.model]
    model = trial.build()
    optimizer = optimizer_of(model.parameters())
    streams = [trial.batches(dp_rank) for dp_rank in range(trial.plan.dp)]
    losses, gradients = [], []
    for step in range(STEPS):
        parts = [part for stream in streams for part in split(stream[step], trial.plan.microbatches)]
        counts = [specimen.targets(part) for part in parts]
        optimizer.zero_grad()
        losses.append(0.0)
        for part, count in zip(parts, counts, strict=True):
            output = model(**part)
            mean = trial.loss_fn(output, part) if trial.loss_fn else output.loss
            if count:  # the mean of nothing is no number
                share = mean * (count / sum(counts))
                share.backward()
                losses[-1] += float(share.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        if step in (0, STEPS - 1):
            gradients.append(_copies({n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
        optimizer.step()
    return Outcome(losses, gradients, _copies(dict(model.named_parameters())), _copies(dict(model.named_buffers())))


def in_one_captured_process(trial: Trial) -> Outcome:
    """The reference with dropout: the whole captured graph in a plain loop, with the same rule for random numbers."""
    model = trial.build()
    optimizer = optimizer_of(model.parameters())
    batches = trial.batches(0)
    prepared = prepare(model, split(batches[0], trial.plan.microbatches)[0], loss_fn=trial.loss_fn)
    loss_number = prepared.captured.loss
    assert loss_number is not None
    losses, gradients = [], []
    for step, batch in enumerate(batches):
        parts = [bind(prepared.captured, part, i) for i, part in enumerate(split(batch, trial.plan.microbatches))]
        counts = [count for count in prepared.terms.counts if count is not None]
        totals = [sum(count(part.inputs, part.sizes) for part in parts) for count in counts]
        optimizer.zero_grad()
        losses.append(0.0)
        for part in parts:
            part.scales = scales(prepared.terms, totals, part.rows, sum(one.rows for one in parts))
            RandomState.set(trial.plan.seed, step, part.index)
            loss = _whole(prepared, model, part)[loss_number]
            loss.backward()
            losses[-1] += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        if step in (0, STEPS - 1):
            gradients.append(_copies({n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
        optimizer.step()
    return Outcome(losses, gradients, _copies(dict(model.named_parameters())), _copies(dict(model.named_buffers())))


def _whole(prepared: Prepared, model: nn.Module, part: MicroBatch) -> Any:
    """What the whole graph gives for a micro-batch."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers()) | prepared.captured.constants | part.inputs
    sources = prepared.captured.sources
    arguments = [
        part.scales[int(sources[node.name].key)]
        if sources[node.name].kind == "scale"
        else tensors[sources[node.name].key]
        for node in prepared.captured.graph.find_nodes(op="placeholder")
    ]
    module = fx.GraphModule(prepared.captured.graph.owning_module or {}, prepared.captured.graph)
    return module(*arguments)


# Many ranks ----------------------------------------------------------------------------------------------------------


def train(context: Context, trial: Trial) -> Outcome:
    """What one rank comes to. A body for `pool.run`."""
    model = trial.build()
    dp_rank = trial.plan.place_of(context.rank)[1]
    batches = trial.batches(dp_rank)
    with mock.patch.object(build, "prepare", functools.partial(_prepare, trial)):
        engine = parallelize(
            model,
            trial.plan,
            batches[0],
            optimizer=optimizer_of,
            loss_fn=trial.loss_fn,
            clip=CLIP,
        )
    assert (engine.dp_rank, engine.dp_size) == (dp_rank, trial.plan.dp)
    own, division = engine.parameters, engine._owned.division
    losses, gradients = [], []
    for step, batch in enumerate(batches):
        before = [leaf.clone() for leaf in flatten(batch).leaves]
        losses.append(engine.train_step(batch))
        assert all(map(torch.equal, before, flatten(batch).leaves)), "the batch was written to"
        if step in (0, STEPS - 1):
            whole = trial.plan.data_parallel != "zero1"  # there, a rank has its share of them only
            shown = {name: p.grad for name, p in own.items() if whole and p.grad is not None}
            gradients.append(_copies({name: division.whole(name, one) for name, one in shown.items()}))
    own = {name: division.whole(name, one.detach()) for name, one in own.items()}
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in engine._owned.buffers}
    return Outcome(losses, gradients, _copies(own), _copies(buffers) if trial.plan.dp == 1 else {})


def train_without_steps(context: Context, trial: Trial) -> Outcome:
    """The losses of one batch, over and over, with a learning rate of zero. A body for `pool.run`."""
    (batch, *_) = trial.batches(0)
    engine = parallelize(
        trial.build(),
        trial.plan,
        batch,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0),
        loss_fn=trial.loss_fn,
    )
    return Outcome([engine.train_step(batch) for _ in range(STEPS)], [], {}, {})


_prepared: dict[Any, Prepared] = {}


def _prepare(trial: Trial, model: nn.Module, batch: Mapping[str, Any], **keywords: Any) -> Prepared:
    delayed = trial.plan if trial.plan.splits_backward else None  # which changes the graph
    key = trial.model, trial.dropout, trial.dtype, delayed, keywords.get("training", True)
    if key not in _prepared:
        _prepared[key] = prepare(model, batch, **keywords)
    return _prepared[key]


def _copies(tensors: Mapping[str, Any]) -> Tensors:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


# What differs --------------------------------------------------------------------------------------------------------


def assert_same(outcomes: list[Outcome], expected: Outcome, tolerance: float = 1e-5) -> None:
    """Asserts that each rank has what the reference has, and that all of it is on some rank.

    Args:
        tolerance: relative to a tensor's norm, with a tenth of it relative to the norm of all gradients.
    """
    for outcome in outcomes:
        assert len(outcome.losses) == len(expected.losses)
        for mine, theirs in zip(outcome.losses, expected.losses, strict=True):
            assert abs(mine - theirs) <= tolerance * abs(theirs), (outcome.losses, expected.losses)
        slack = tolerance / 10 * _norm(expected.gradients[0].values())
        for step, theirs in enumerate(expected.gradients):
            _assert_close(outcome.gradients[step], theirs, tolerance, slack, f"gradients[{step}]")
        _assert_close(outcome.parameters, expected.parameters, tolerance, slack, "parameters")
        _assert_close(outcome.buffers, expected.buffers, tolerance, slack, "buffers")
    trained = set(expected.gradients[0])
    for found in ([one.parameters for one in outcomes], [one.gradients[0] for one in outcomes if one.gradients[0]]):
        names = {name for tensors in found for name in tensors}
        assert not found or trained <= names, f"no rank has {sorted(trained - names)}"


def _assert_close(found: Tensors, expected: Tensors, tolerance: float, slack: float, what: str) -> None:
    for name, tensor in found.items():
        theirs = expected[name]
        difference = _norm([tensor - theirs])
        allowed = tolerance * _norm([theirs]) + slack
        assert difference <= allowed, f"{what} of {name}: off by {difference:.3g}, allowed {allowed:.3g}"


def _norm(tensors: Iterable[torch.Tensor]) -> float:
    return float(sum(tensor.double().square().sum() for tensor in tensors) ** 0.5)
