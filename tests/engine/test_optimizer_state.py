"""The optimizer's state in checkpoints: none before the first step, and all of it after, whatever its types."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from merak.engine import Plan
from tests.backend.harness import Context
from tests.engine.chains import HALVES, Make, engine_of, same, train, trained_alone, values_of

Runner = Callable[..., list[Any]]
PIPELINE = Plan(pp=2, microbatches=2, cuts=HALVES)
STEPS = range(3)


def adam(parameters: Iterable[Any]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-2, weight_decay=0.1, eps=1e-4)


def momentum(parameters: Iterable[Any]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, dampening=0.5, weight_decay=0.1)


def resilient(parameters: Iterable[Any]) -> torch.optim.Optimizer:
    return torch.optim.Rprop(parameters, lr=1e-2)


def rated(parameters: Iterable[Any]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=torch.tensor(1e-2), eps=1e-4)


class Odd(torch.optim.Optimizer):
    """Keeps what is no tensor, and steps by it."""

    def __init__(self, parameters: Iterable[Any]) -> None:
        super().__init__(parameters, {"lr": 0.1, "bounds": (0.5, 2.0)})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                count = state.get("step", 0) + 1
                mean = 0.9 * state.get("mean", 0.0) + 0.1
                state.update(step=count, mean=mean, last=None, seen=("a", [count, True]), tables={"now": 1 / 3})
                state["sum"] = state.get("sum", torch.zeros_like(parameter)) + parameter.grad
                parameter.sub_(state["sum"], alpha=group["lr"] * mean / count)


def resume_from_the_beginning(context: Context, make: Make) -> tuple[bool, bool, dict[str, torch.Tensor]]:
    engine = engine_of(PIPELINE, make)
    engine.state_dict()
    engine.save(context.folder / "first")
    with pytest.raises(ValueError, match="there is no checkpoint at"):
        engine.load(context.folder / "nowhere")
    begun = bool(engine.optimizer.state) or any(
        one.grad is not None and one.grad.any() for one in engine.parameters.values()
    )
    train(engine, STEPS)
    resumed = engine_of(PIPELINE, make)
    train(resumed, [5])  # which the checkpoint takes back
    resumed.load(context.folder / "first")
    train(resumed, STEPS)
    return begun, same(values_of(resumed), values_of(engine)), values_of(engine)


@pytest.mark.parametrize("make", [adam, momentum, resilient])
def test_a_checkpoint_before_the_first_step_changes_nothing(run: Runner, make: Make) -> None:
    expected = trained_alone(make, STEPS)
    for begun, resumed_alike, values in run(resume_from_the_beginning, make, world_size=2):
        assert not begun
        assert resumed_alike
        assert same(values, {name: expected[name] for name in values}, 1e-5)


def kept(optimizer: torch.optim.Optimizer) -> list[Any]:
    """All that is no tensor, and the rates."""
    states = [[(key, one) for key, one in state.items() if key != "sum"] for state in optimizer.state.values()]
    return [sorted(states[0], key=repr), [(group["lr"], group["bounds"]) for group in optimizer.param_groups]]


def resume_numbers(context: Context, plan: Plan) -> tuple[bool, dict[str, torch.Tensor]]:
    path = context.folder / "checkpoint"
    engine = engine_of(PIPELINE, Odd)
    train(engine, STEPS)
    for group in engine.optimizer.param_groups:
        group.update(lr=0.3, bounds=(0.25, 4.0))
    engine.save(path)
    resumed = engine_of(plan, Odd)
    resumed.load(path)
    alike = repr(kept(resumed.optimizer)) == repr(kept(engine.optimizer))
    train(resumed, [3])
    return alike, values_of(resumed)


def faster(step: int, optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        group["lr"] = 0.3 if step == 3 else 0.1


@pytest.mark.parametrize("plan", [PIPELINE, Plan(dp=2, data_parallel="zero1")], ids=["same", "zero1"])
def test_state_that_is_no_tensor_is_resumed_under_any_plan(run: Runner, plan: Plan) -> None:
    made: list[torch.optim.Optimizer] = []
    expected = trained_alone(
        lambda p: made.append(Odd(p)) or made[0],  # type: ignore[func-returns-value]
        range(4),
        lambda step, _: faster(step, made[0]),
    )
    for alike, values in run(resume_numbers, plan, world_size=2):
        assert alike
        assert same(values, {name: expected[name] for name in values}, 1e-5)


def resume_rate(context: Context) -> list[tuple[Any, float]]:
    engine = engine_of(PIPELINE, rated)
    train(engine, [0])
    for group in engine.optimizer.param_groups:
        group["lr"].fill_(0.123)
    engine.save(context.folder / "checkpoint")
    resumed = engine_of(PIPELINE, rated)
    resumed.load(context.folder / "checkpoint")
    return [(group["lr"].dtype, float(group["lr"])) for group in resumed.optimizer.param_groups]


def test_a_rate_that_is_a_tensor_is_resumed(run: Runner) -> None:
    wanted = [(torch.float32, float(torch.tensor(0.123)))]
    assert run(resume_rate, world_size=2) == [wanted, wanted]


def refuse_state(context: Context) -> tuple[str, bool]:
    engine = engine_of(PIPELINE, adam)
    train(engine, [0])
    if context.rank == 1:
        next(iter(engine.optimizer.state.values()))["hook"] = print
    with pytest.raises(ValueError, match="is no tensor, number or text") as raised:
        engine.save(context.folder / "checkpoint")
    return str(raised.value), Path(context.folder / "checkpoint").exists()


def test_state_that_cannot_be_kept_is_refused_on_all_ranks(run: Runner) -> None:
    (first, there), (second, _) = run(refuse_state, world_size=2)
    assert first == second
    assert "rank 1: the optimizer keeps hook of layers." in first
    assert not there
