"""Stages that different numbers of ranks share: `Plan(tp=(2, 1))`. Same numbers as one process.

What crosses in these tiny models is small, and would go whole to every rank: here all of it goes in shares.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

import merak
from merak.engine import Plan
from merak.graph.prepare import prepare
from merak.graph.stages import Stage
from merak.pipeline import crossing
from merak.sharding.parts import Place
from merak.sharding.width import Width
from tests.backend.harness import Context
from tests.engine import parity, zoo
from tests.engine.parity import Trial

Runner = Callable[..., list[Any]]

PLANS = {
    "even": Plan(tp=2, pp=2, microbatches=3),
    "even-uneven-heads": Plan(tp=3, pp=2, microbatches=4, schedule="eager", recompute=(0.6, 0.0)),
    "narrower": Plan(tp=(2, 1), pp=2, microbatches=3),
    "wider": Plan(dp=2, tp=(1, 2), pp=2, microbatches=2, recompute=0.5),
    "three": Plan(tp=(3, 1, 2), pp=3, microbatches=4, schedule="eager-delayed"),
    "zero1": Plan(dp=2, tp=(1, 2, 1), pp=3, microbatches=4, schedule="eager", data_parallel="zero1"),
    "interleaved": Plan(tp=(2, 1), pp=2, microbatches=4, schedule="interleaved", stages=4, recompute=1.0),
    "sequence": Plan(tp=(1, 2), pp=2, microbatches=4, stages=2, schedule="zero-bubble", sequence_parallel=True),
    "sequence-of-both": Plan(tp=(3, 2), pp=2, microbatches=3, schedule="gpipe", sequence_parallel=True),
    "zbv": Plan(tp=(2, 1), pp=2, microbatches=4, schedule="zbv", sequence_parallel=True),
}
MODELS = ("gpt2", "t5", "llama", "bert", "vit")
SAMPLE = {("t5", "narrower"), ("gpt2", "sequence"), ("llama", "interleaved")}


def train_in_shares(context: Context, trial: Trial) -> parity.Outcome:
    with mock.patch.object(crossing, "LEAST_BYTES", 0):
        return parity.train(context, trial)


@pytest.mark.parametrize(
    ("model", "plan"),
    [
        pytest.param(model, plan, id=f"{model}-{plan}", marks=() if (model, plan) in SAMPLE else pytest.mark.slow)
        for model in MODELS
        for plan in PLANS
    ],
)
def test_same_numbers(run: Runner, model: str, plan: str) -> None:
    trial = Trial(model, PLANS[plan])  # its replicas have batches of other sizes, its last micro-batches fewer rows
    outcomes = run(train_in_shares, trial, world_size=trial.plan.world_size, deadline=240)
    parity.assert_same(outcomes, parity.in_one_process(trial))


@pytest.mark.parametrize("tp", [2, pytest.param((1, 2), marks=pytest.mark.slow)])
def test_what_several_stages_need_otherwise_than_it_is_crosses_as_it_is(run: Runner, tp: int | tuple[int, ...]) -> None:
    # Both layers of the decoder attend to the encoder's result, in parts: its gradients are terms of a sum.
    plan = Plan(tp=tp, pp=2, microbatches=2, cuts=("decoder.block.1",))
    outcomes = run(train_in_shares, Trial("t5", plan), world_size=plan.world_size, deadline=240)
    parity.assert_same(outcomes, parity.in_one_process(Trial("t5", plan)))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["gpt2", "t5"])
@pytest.mark.parametrize("plan", ["narrower", "sequence-of-both"])
def test_same_numbers_in_double_precision(run: Runner, model: str, plan: str) -> None:
    trial = Trial(model, PLANS[plan], dtype=torch.float64)
    outcomes = run(train_in_shares, trial, world_size=trial.plan.world_size, deadline=240)
    parity.assert_same(outcomes, parity.in_one_process(trial), 1e-10)


@pytest.mark.slow
def test_twelve_ranks(run: Runner) -> None:
    plan = Plan(dp=2, tp=(3, 1, 2), pp=3, microbatches=4, schedule="eager", data_parallel="zero1", recompute=0.5)
    trial = Trial("gpt2", plan)
    parity.assert_same(run(train_in_shares, trial, world_size=12, deadline=240), parity.in_one_process(trial))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["gpt2", "t5"])
def test_dropout_is_that_of_one_process(run: Runner, model: str) -> None:
    expected = parity.in_one_captured_process(Trial(model, Plan(microbatches=4), (8,), 0.3, shared_batch=True))
    for name in ("narrower", "interleaved", "sequence-of-both"):
        plan = dataclasses.replace(PLANS[name], microbatches=4)
        trial = Trial(model, plan, rows=(8,), dropout=0.3, shared_batch=True)
        parity.assert_same(run(train_in_shares, trial, world_size=plan.world_size, deadline=240), expected)


@pytest.mark.parametrize(
    "model", [pytest.param(name, marks=() if name == "bert" else pytest.mark.slow) for name in zoo.ZOO]
)
@pytest.mark.parametrize(("ranks", "sequence_parallel"), [(3, False), (2, True)])
def test_all_graphs_of_a_model_agree_on_what_crosses(model: str, ranks: int, sequence_parallel: bool) -> None:
    plain = zoo.make(model)
    whole = prepare(plain, zoo.batch_of(model, 2, 0), loss_fn=zoo.ZOO[model].loss_fn)
    trainable = {name for name, _ in plain.named_parameters()}
    may_cut = [index for index, may in enumerate(whole.cuttable.may_cut) if may]
    boundaries = sorted(random.Random(ranks).sample(may_cut, 3))
    print(f"cut at {boundaries}")
    place = Place(ranks - 1, ranks, "")
    width = Width(ranks, [], trainable, place, sequence_parallel=sequence_parallel)
    divided = width.divide(whole, boundaries)
    assert divided.keeps_within(boundaries)
    own = divided.prepared.cuttable.cut([divided.begin(one) for one in boundaries], trainable=trainable)
    for mine, all_of_it in zip(own, whole.cuttable.cut(boundaries, trainable=trainable), strict=True):
        assert shown(mine) == shown(all_of_it)


def shown(stage: Stage) -> list[set[Any]]:
    crossing = [{(one.common, one.consumers, one.has_gradient) for one in few} for few in (stage.sent, stage.received)]
    return [*crossing, set(stage.parameters), set(stage.outputs)]


# Outputs and explanations --------------------------------------------------------------------------------------------


def evaluate(context: Context, plan: Plan) -> tuple[float | None, torch.Tensor, str]:
    batch = zoo.batch_of("gpt2", 4, 1)
    engine = merak.parallelize(zoo.make("gpt2"), plan, batch, optimizer=parity.optimizer_of)
    found = engine.eval_step(batch)
    return found.loss, found.output.logits, engine.explain()


@pytest.mark.parametrize("name", ["narrower", pytest.param("sequence-of-both", marks=pytest.mark.slow)])
def test_outputs_are_whole(run: Runner, name: str) -> None:
    plain, batch, plan = zoo.make("gpt2").eval(), zoo.batch_of("gpt2", 4, 1), PLANS[name]
    with torch.no_grad():
        expected = plain(**batch)
    for loss, logits, text in run(evaluate, plan, world_size=plan.world_size):
        assert loss == pytest.approx(float(expected.loss), rel=1e-5)
        torch.testing.assert_close(logits, expected.logits, rtol=1e-4, atol=1e-5)
        assert f"1 replicas x {plan.tp} tensor-parallel x 2 pipeline ranks" in text
        assert "on pipeline ranks 0:" in text


# Checkpoints ---------------------------------------------------------------------------------------------------------


def train_and_save(context: Context, plan: Plan, path: Path, start: Path | None) -> tuple[list[float], float | None]:
    """Two steps from a checkpoint, if there is one; then it is saved. The losses, and the last norm."""
    batches = [zoo.batch_of("gpt2", 4, step) for step in range(4)]
    engine = merak.parallelize(zoo.make("gpt2"), plan, batches[0], optimizer=parity.optimizer_of, clip=0.5)
    if start is not None:
        engine.load(start)
    losses = [engine.train_step(batch) for batch in batches[engine.steps : engine.steps + 2]]
    engine.save(path)
    return losses, engine.grad_norm


@pytest.mark.slow
def test_checkpoints_go_there_and_back(run: Runner, tmp_path: Path) -> None:
    one, two = Plan(microbatches=2), Plan(tp=(2, 1), pp=2, microbatches=2)
    found = {}
    for first, second in ((one, one), (one, two), (two, one), (two, two)):
        name = f"{first.world_size}{second.world_size}"
        begun = run(train_and_save, first, tmp_path / f"{name}a", None, world_size=first.world_size)
        ended = run(train_and_save, second, tmp_path / f"{name}b", tmp_path / f"{name}a", world_size=second.world_size)
        found[name] = begun, ended
    (wanted,), ((after, norm),) = found["11"]
    for begun, ended in found.values():
        assert all(losses == pytest.approx(wanted[0], rel=1e-5) for losses, _ in begun)
        assert all(losses == pytest.approx(after, rel=1e-5) for losses, _ in ended)
        assert all(other == pytest.approx(norm, rel=1e-4) for _, other in ended)


# Refusals ------------------------------------------------------------------------------------------------------------


def refused(context: Context, plan: Plan) -> str:
    batch = zoo.batch_of("gpt2", 4, 1)
    try:
        merak.parallelize(zoo.make("gpt2"), plan, batch, optimizer=parity.optimizer_of)
    except ValueError as error:
        return str(error)
    return ""


def test_other_worlds_are_told_what_would_fit(run: Runner) -> None:
    for text in run(refused, Plan(tp=(2, 1), pp=2), world_size=4):
        assert text == ("the plan is for 3 ranks (dp 1 x tp (2 + 1)), and 4 are running; it would fit with tp=2")
    for text in run(refused, Plan(tp=(1, 1, 2), pp=3), world_size=5):
        assert text.endswith("and 5 are running; it would fit with tp=(2, 2, 1)")
