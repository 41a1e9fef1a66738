"""What sets the ranks of an engine apart: all of them hear of it at once, and none waits for its timeout."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import nn

import merak
from merak._torch_compat import timeout_of
from merak.engine import Engine
from merak.pipeline.executor import Executor
from merak.pipeline.stage_runner import StageRunner
from tests.backend.harness import GROUP_TIMEOUT, Context

Runner = Callable[..., list[Any]]
Batch = dict[str, torch.Tensor]
SOON = 4.0
"""Seconds: far less than the timeout of the groups, and more than a busy machine takes to tell all ranks."""


class Outputs(nn.Module):
    """Four layers, with outputs of several kinds, and a loss where there are labels."""

    def __init__(self, counting: bool = False) -> None:
        super().__init__()
        self.counting = counting
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> dict[str, Any]:
        """The loss, the mean of the results, the results, and how many of them are positive."""
        out = x
        for layer in self.layers:
            out = layer(out).tanh()
        loss = None if y is None else (out - y).square().mean()
        outputs = {"loss": loss, "mean": out.mean(), "out": out}
        return outputs | {"positive": (out > 0).sum()} if self.counting else outputs


def batch(rows: int = 4) -> Batch:
    random = torch.Generator().manual_seed(rows)
    return {"x": torch.randn(rows, 4, generator=random), "y": torch.randn(rows, 4, generator=random)}


def engine_of(plan: merak.Plan, make: Any = None, counting: bool = False) -> Engine:
    make = make or (lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    return merak.parallelize(Outputs(counting), plan, batch(), optimizer=make)


def said(do: Callable[[], Any]) -> tuple[str, float]:
    """What comes of it, and the seconds that it took."""
    began = time.monotonic()
    try:
        text = str(do())
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
    return text, time.monotonic() - began


# One rank fails -------------------------------------------------------------------------------------------------------


def one_fails(context: Context, plan: merak.Plan, what: str) -> tuple[list[tuple[str, float]], float]:
    """What is said of a step that fails on the last rank and of the next one, and a sum over the user's group."""
    engine = engine_of(plan)
    engine.train_step(batch())
    broken: Any = contextlib.nullcontext()
    if context.rank == context.world_size - 1:
        target = StageRunner if what == "forward" else engine.optimizer
        broken = mock.patch.object(target, what, side_effect=ArithmeticError("out of luck"))
    with broken:
        texts = [said(lambda: engine.train_step(batch()))]
    texts.append(said(lambda: engine.train_step(batch())))
    total = torch.ones(())
    dist.all_reduce(total)  # the program's own groups are as they were
    return texts, float(total)


@pytest.mark.parametrize(
    ("plan", "what"),
    [
        (merak.Plan(pp=2, microbatches=2), "forward"),
        (merak.Plan(dp=2, microbatches=2), "forward"),
        (merak.Plan(pp=2, dp=2, microbatches=2), "forward"),
        (merak.Plan(dp=2, microbatches=2, data_parallel="zero1"), "step"),
    ],
    ids=["pp", "dp", "both", "optimizer"],
)
def test_others_hear_at_once_of_a_rank_that_failed(run: Runner, plan: merak.Plan, what: str) -> None:
    size = plan.pp * plan.dp
    *others, (texts, total) = run(one_fails, plan, what, world_size=size)
    assert "out of luck" in texts[0][0]
    assert "aborted" not in texts[0][0]
    assert total == size
    for (first, took), (again, _) in [texts for texts, _ in others]:
        assert first.startswith("DistNetworkError: "), first
        assert f"aborted the group: a step of merak's engine failed on rank {size - 1}: " in first, first
        assert first.count("failed on rank") == 1
        assert "out of luck" in first
        assert took < SOON
        assert again.startswith("RuntimeError: this engine cannot go on")


def optimizer_fails(context: Context) -> tuple[str, float]:
    def make(parameters: Any) -> torch.optim.Optimizer:
        if context.rank == 1:
            raise ArithmeticError("no such optimizer")
        return torch.optim.SGD(parameters, lr=0.1)

    return said(lambda: engine_of(merak.Plan(pp=2, microbatches=2), make))


def test_all_hear_of_an_optimizer_that_one_rank_could_not_make(run: Runner) -> None:
    (other, took), (own, _) = run(optimizer_fails, world_size=2)
    assert own == "ArithmeticError: no such optimizer"
    assert other.startswith("ValueError: making the engine failed on ranks [1]")
    assert took < 30.0


def dies_in_its_first_step(rank: int, port: int, queue: Any) -> None:
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, 4, is_master=rank == 0, wait_for_workers=False)
    dist.init_process_group("merak", store=store, rank=rank, world_size=4, timeout=GROUP_TIMEOUT)
    engine = engine_of(merak.Plan(pp=4, microbatches=4))
    if rank == 2:  # after the sums that begin a step, and before the first message
        die = mock.patch.object(Executor, "step", side_effect=lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        with die:
            engine.train_step(batch())
    queue.put(said(lambda: engine.train_step(batch())))
    queue.close()
    queue.join_thread()
    os._exit(0)


def test_a_rank_that_is_killed_in_its_first_step_is_noticed() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    context = multiprocessing.get_context("forkserver")
    queue = context.Queue()
    ranks = [context.Process(target=dies_in_its_first_step, args=(rank, port, queue)) for rank in range(4)]
    for process in ranks:
        process.start()
    try:
        found = [queue.get(timeout=40) for _ in range(3)]
    finally:
        for process in ranks:
            process.kill()
    for text, took in found:
        assert text.startswith("DistNetworkError: stage "), text
        assert took < SOON, text


# What all must agree on ----------------------------------------------------------------------------------------------


def apart(context: Context, plan: merak.Plan, what: str) -> list[tuple[str, float]]:
    """What is said of a step for which the last rank does something else, and of one behind."""
    engine = engine_of(plan)
    odd, good = context.rank == context.world_size - 1, batch()
    calls: dict[str, Callable[[], Any]] = {
        "rows": lambda: engine.train_step(batch(6) if odd else good),
        "values": lambda: engine.train_step(good | {"y": good["y"].flip(0)} if odd else good),
        "mode": lambda: engine.eval_step(good) if odd else engine.train_step(good),
        "output": lambda: engine.eval_step(good, output=odd),
        "labels": lambda: engine.eval_step({"x": good["x"]} if odd else good),
    }
    return [said(calls[what]), said(lambda: engine.train_step(good))]


@pytest.mark.parametrize(
    ("plan", "what", "words"),
    [
        (merak.Plan(pp=2, microbatches=2), "rows", "x (3, 4)"),
        (merak.Plan(pp=2, microbatches=2), "values", "values of y whose bits sum to"),
        (merak.Plan(pp=2, microbatches=2), "mode", "evaluation"),
        (merak.Plan(pp=2, microbatches=2), "output", "with the model's output"),
        (merak.Plan(dp=2, microbatches=2), "labels", "without a loss"),
        (merak.Plan(pp=2, dp=2, microbatches=2), "rows", "x (3, 4)"),
    ],
)
def test_ranks_that_do_other_things_are_all_told(run: Runner, plan: merak.Plan, what: str, words: str) -> None:
    size = plan.pp * plan.dp
    for (text, took), (behind, _) in run(apart, plan, what, world_size=size):
        assert text.startswith("ValueError: "), text
        assert f"rank {size - 1}" in text or f"ranks [{size - 1}]" in text
        assert words in text
        assert took < SOON
        assert float(behind) > 0


def test_replicas_may_have_batches_of_other_sizes(run: Runner) -> None:
    assert run(other_sizes, world_size=2) == [4, 4]


def other_sizes(context: Context) -> int:
    engine = engine_of(merak.Plan(dp=2, microbatches=4))
    for rows in (4, 1, 3, 8):
        engine.train_step(batch(rows if context.rank else 4))
    return engine.steps


# Outputs, timeouts, and modes of torch that are on around a step -----------------------------------------------------


def evaluate_all_kinds(context: Context) -> tuple[list[str], int, float, float]:
    engine = engine_of(merak.Plan(pp=2, microbatches=2), counting=True)
    texts = [said(lambda: engine.eval_step(batch()))[0], str(engine.eval_step(batch(), output=False).loss)]
    whole = engine.eval_step([batch()]).output
    return texts, int(whole["positive"]), float(whole["mean"]), engine.train_step(batch())


def test_an_output_that_cannot_be_put_together_is_refused_by_all(run: Runner) -> None:
    with torch.no_grad():
        plain = Outputs(counting=True)(**batch())
    for texts, positive, mean, loss in run(evaluate_all_kinds, world_size=2):
        assert texts[0].startswith("ValueError: the model's output positive is torch.int64 of shape ()")
        assert "one micro-batch" in texts[0]
        assert float(texts[1]) == pytest.approx(float(plain["loss"]), rel=1e-5)
        assert positive == int(plain["positive"])
        assert mean == pytest.approx(float(plain["mean"]), rel=1e-4)
        assert loss == pytest.approx(float(plain["loss"]), rel=1e-5)


def timeouts(context: Context) -> list[Any]:
    layout = engine_of(merak.Plan(pp=2, microbatches=2))._layout
    return [timeout_of(group) for group in (None, *layout.groups)]


def test_groups_have_the_timeout_of_the_programs(run: Runner) -> None:
    for found in run(timeouts, world_size=2):
        assert len(found) >= 4
        assert set(found) == {GROUP_TIMEOUT}


def with_modes(context: Context, precision: Any) -> list[float]:
    """Losses of steps with modes of torch around all of them, and with inference tensors."""
    with torch.autocast("cpu", torch.bfloat16):
        engine = engine_of(merak.Plan(pp=2, microbatches=2, precision=precision))
        losses = [engine.train_step(batch())]
        losses.append(engine.eval_step(batch()).loss or 0.0)
    with torch.inference_mode():
        made = {key: value.clone() for key, value in batch().items()}
        losses.append(engine.eval_step(made).loss or 0.0)
        losses.append(engine.train_step(batch()))
    losses.append(engine.train_step(made))
    return [*losses, engine.train_step(batch())]


def without_modes(context: Context, precision: Any) -> list[float]:
    engine = engine_of(merak.Plan(pp=2, microbatches=2, precision=precision))
    losses = [engine.train_step(batch()), engine.eval_step(batch()).loss or 0.0, engine.eval_step(batch()).loss or 0.0]
    return [*losses, *(engine.train_step(batch()) for _ in range(3))]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_modes_around_a_step_change_nothing(run: Runner, precision: str) -> None:
    plain = run(without_modes, precision, world_size=2)
    assert run(with_modes, precision, world_size=2) == plain
