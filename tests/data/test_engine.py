"""Random layerwise token dropping by a plan: the numbers of the plain model in one process, which draws for itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from merak.data import KeepSchedule, RandomLTD
from merak.engine import Engine, Plan, build, parallelize
from merak.graph.capture import capture
from merak.graph.prepare import Prepared, prepare
from merak.pipeline.microbatches import split
from tests.backend.harness import Context
from tests.data import models
from tests.engine import parity, zoo
from tests.engine.parity import Outcome, Trial
from tests.engine.trainers import sampled

Runner = Callable[..., list[Any]]
STEPS = 5

PLANS = {
    "one-rank": Plan(microbatches=3),
    "1f1b": Plan(pp=2, microbatches=3, recompute=(1.0, 0.0)),
    "eager": Plan(dp=2, pp=2, microbatches=2, schedule="eager", recompute=0.6),
    "zero-bubble": Plan(dp=2, pp=2, microbatches=2, schedule="zero-bubble", stages=2, data_parallel="zero1"),
    "interleaved": Plan(pp=2, microbatches=2, schedule="interleaved", stages=4),
    "tp": Plan(tp=2, microbatches=2),
    "tp-pipeline": Plan(tp=2, pp=2, microbatches=2, schedule="shifted", recompute=1.0),
    "tp-replicas": Plan(dp=2, tp=2, microbatches=2),
    "tp-pipelined-replicas": Plan(dp=2, tp=2, pp=2, microbatches=2, recompute=(0.0, 1.0)),
    "tp-sequence": Plan(tp=2, pp=2, microbatches=2, sequence_parallel=True),
    "tp-parts": Plan(tp=2, microbatches=2, sub_batches=2),
}


def dropping(model: nn.Module) -> RandomLTD:
    """Kept tokens grow with the steps, until the last step keeps all; layers are the last two of three."""
    return RandomLTD(model, layers=[1, 2], schedule=KeepSchedule(start=3, steps=STEPS - 1, quantum=1), seed=11)


def length_of(model: str) -> int | None:
    return 17 if model == "vit" else None  # 16 patches and the class


def in_one_process(trial: Trial) -> Outcome:
    specimen, model = zoo.ZOO[trial.model], trial.build()
    ltd, optimizer = dropping(model), parity.optimizer_of(model.parameters())
    streams = [trial.batches(dp_rank) for dp_rank in range(trial.plan.dp)]
    losses, gradients = [], []
    for step in range(STEPS):
        parts = [part for stream in streams for part in split(stream[step], trial.plan.microbatches)]
        counts = [specimen.targets(part) for part in parts]
        optimizer.zero_grad()
        losses.append(0.0)
        ltd.at(step)
        for part, count in zip(parts, counts, strict=True):
            share = model(**part).loss * (count / sum(counts))
            share.backward()
            losses[-1] += float(share.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), parity.CLIP)
        if step in (0, STEPS - 1):
            gradients.append(copies({n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
        optimizer.step()
    return Outcome(losses, gradients, copies(dict(model.named_parameters())), copies(dict(model.named_buffers())))


def train(context: Context, trial: Trial) -> tuple[Outcome, int]:
    """What one rank comes to, and how many graphs it has captured for training."""
    model = trial.build()
    ltd = dropping(model)
    batches = trial.batches(trial.plan.place_of(context.rank)[1])
    length = length_of(trial.model)
    (example,) = ltd.with_indices(batches[:1], length=length)
    with mock.patch.object(build, "prepare", partial(prepared_once, trial)):
        engine = parallelize(model, trial.plan, example, optimizer=parity.optimizer_of, clip=parity.CLIP)
        return trained(engine, ltd, trial, batches, length)


def trained(
    engine: Engine, ltd: RandomLTD, trial: Trial, batches: list[zoo.Batch], length: int | None
) -> tuple[Outcome, int]:
    division = engine._owned.division
    losses, gradients = [], []
    for step, batch in enumerate(batches):
        parts = split(batch, trial.plan.microbatches)
        losses.append(engine.train_step(ltd.with_indices(parts, engine.dp_rank * len(parts), length=length)))
        ltd.step()
        if step in (0, STEPS - 1):
            whole = trial.plan.data_parallel != "zero1"
            shown = {n: p.grad for n, p in engine.parameters.items() if whole and p.grad is not None}
            gradients.append(copies({n: division.whole(n, one) for n, one in shown.items()}))
    own = {name: division.whole(name, one.detach()) for name, one in engine.parameters.items()}
    return Outcome(losses, gradients, copies(own), {}), graphs_of(engine)


_prepared: dict[Any, Prepared] = {}


def prepared_once(trial: Trial, model: nn.Module, batch: Mapping[str, Any], **keywords: Any) -> Prepared:
    """A capture serves all plans that a rank tries with a model."""
    delayed = trial.plan if trial.plan.splits_backward else None  # which changes the graph
    key = trial.model, delayed, "kept_tokens" in batch
    if key not in _prepared:
        _prepared[key] = prepare(model, batch, **keywords)
    return _prepared[key]


def copies(tensors: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def graphs_of(engine: Engine) -> int:
    return sum(len(found) for (training, _), found in engine._variants._known.items() if training)


IN_EVERY_RUN = {("gpt2", "eager"), ("gpt2", "tp-pipeline"), ("bert", "1f1b")}
OTHERS = [
    *(("gpt2", name) for name in PLANS),
    ("llama", "1f1b"),
    ("llama", "tp-sequence"),
    ("vit", "eager"),
    ("vit", "tp"),
]


@pytest.mark.parametrize(
    ("model", "name"),
    [*sorted(IN_EVERY_RUN), *(pytest.param(*one, marks=pytest.mark.slow) for one in OTHERS if one not in IN_EVERY_RUN)],
)
def test_same_numbers_as_in_one_process(run: Runner, model: str, name: str) -> None:
    trial = Trial(model, PLANS[name])
    found = run(train, trial, world_size=trial.plan.world_size, deadline=180)
    parity.assert_same([outcome for outcome, _ in found], in_one_process(trial))
    # One graph for all kept lengths, and one for when all tokens are kept.
    assert [graphs for _, graphs in found] == [2] * trial.plan.world_size


def test_something_is_dropped() -> None:
    trial = Trial("gpt2", PLANS["one-rank"])
    assert abs(in_one_process(trial).losses[0] - parity.in_one_process(trial).losses[0]) > 1e-3


@pytest.mark.parametrize(
    "case", sampled(models.CASES, {"gpt2", "bert-padded", "llama-packed", "mistral-window", "vit"})
)
def test_one_graph_serves_every_kept_length(case: str) -> None:
    model, batch = models.made(case)
    ltd = RandomLTD(model, schedule=KeepSchedule.constant(7), seed=3)
    captured = capture(model, ltd.with_indices([batch], length=length_of(case[:3]))[0])
    _, layers, kept = captured.inputs["kept_tokens"].shape
    assert layers == len(ltd.layers)
    assert isinstance(kept, torch.SymInt)
    assert str(kept) not in " ".join(map(str, captured.conditions)), "the model asks something of the kept length"


def test_a_graph_without_dropping_once_all_is_kept() -> None:
    model, batch = models.made("gpt2")
    ltd = RandomLTD(model, schedule=KeepSchedule(start=7, steps=3, end=models.TOKENS))
    ltd.at(3)
    (whole,) = ltd.with_indices([batch])
    assert whole.keys() == batch.keys()
    assert not [node for node in capture(model, whole).graph.nodes if "gather_tokens" in str(node.target)]


def test_a_capture_without_indices_is_refused() -> None:
    model, batch = models.made("gpt2")
    RandomLTD(model, schedule=KeepSchedule.constant(7))
    with pytest.raises(ValueError, match="the same tokens at every step"):
        capture(model, batch)
    assert capture(model, batch, training=False).inputs.keys() == batch.keys()
