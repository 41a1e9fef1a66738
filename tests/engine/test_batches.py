"""Batches that are not like the example: shorter, without targets, of other sizes, or that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from merak.engine import Engine, Plan, parallelize
from tests.backend.harness import Context

Runner = Callable[..., list[Any]]
CLASSES = 7


class Tagger(nn.Module):
    """A class for each token. Texts of more than five tokens take another way."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embedding = nn.Embedding(CLASSES, 8)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, ids: torch.Tensor, labels: torch.Tensor, mode: str = "plain") -> Any:
        """The loss and the scores."""
        h = self.embedding(ids)
        for layer in self.layers:
            h = layer(h).tanh()
        if ids.shape[1] > 5:
            h = h * 2
        scores = h @ self.embedding.weight.T
        return {"loss": F.cross_entropy(scores.flatten(0, 1), labels.flatten()), "scores": scores}


def batch(rows: int, length: int = 4, seed: int = 0) -> dict[str, Any]:
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, CLASSES, (rows, length), generator=random)
    return {"ids": ids, "labels": ids.flip(1).masked_fill(torch.rand(ids.shape, generator=random) < 0.3, -100)}


def engine_of(plan: Plan, example: dict[str, Any]) -> Engine:
    return parallelize(Tagger(), plan, example, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))


def losses_of(context: Context, plan: Plan, everyones: list[list[dict[str, Any]]]) -> list[float]:
    """The losses of batches (of each data-parallel rank), with weights that stay what they are."""
    mine = [batches[context.rank % plan.dp] for batches in everyones]
    engine = engine_of(plan, mine[0])
    return [engine.train_step(one) for one in mine]


def expected(batches: list[dict[str, Any]]) -> float:
    """The mean over all targets of several batches."""
    sums = counts = 0.0
    for one in batches:
        scores = Tagger()(one["ids"], one["labels"])["scores"].detach()
        sums += float(F.cross_entropy(scores.flatten(0, 1), one["labels"].flatten(), reduction="sum"))
        counts += float((one["labels"] != -100).sum())
    return sums / counts


def without_targets(one: dict[str, Any], rows: slice) -> dict[str, Any]:
    one["labels"][rows] = -100
    return one


EVERYONES = {
    "other rows": [[batch(4), batch(4, seed=1)], [batch(7), batch(5, seed=1)], [batch(5), batch(9)]],
    "fewer rows than micro-batches": [[batch(6), batch(6)], [batch(2), batch(1)], [batch(6), batch(6)]],
    "other lengths": [[batch(4), batch(4)], [batch(4, 5), batch(4, 5)], [batch(4, 3), batch(5, 3)]],
    "the other way, and back": [[batch(4, 4)] * 2, [batch(4, 8)] * 2, [batch(4, 5)] * 2, [batch(3, 6), batch(4, 6)]],
    "a micro-batch without targets": [[batch(6), without_targets(batch(6), slice(0, 2))]],
    "a rank without targets": [[batch(6), without_targets(batch(6), slice(0, 6))]],
}


@pytest.mark.parametrize("what", EVERYONES)
def test_losses_are_means_over_all_targets(run: Runner, what: str) -> None:
    plan = Plan(dp=2, pp=2, microbatches=3, recompute=0.5, cuts=("layers.1",))
    found = run(losses_of, plan, EVERYONES[what], world_size=4)
    for losses in found:
        assert losses == pytest.approx([expected(batches) for batches in EVERYONES[what]], rel=1e-5)


def refused(context: Context, plan: Plan, example: dict[str, Any], wrong: dict[str, Any] | None) -> str:
    try:
        engine_of(plan, example).train_step(wrong or example)
    except ValueError as error:
        return str(error)
    return "nothing"


def test_what_does_not_fit_says_so_on_every_rank(run: Runner) -> None:
    for plan, wrong, text in (
        (Plan(pp=3), None, "the plan is for 3 ranks (dp 1 x tp 1 x pp 3), and 2 are running"),
        (Plan(pp=2, stages=60), None, "60"),
        (Plan(pp=2), {"ids": torch.zeros(0, 4, dtype=torch.long)}, "no tensor with rows"),
        (Plan(pp=2), {"ids": batch(4)["ids"]}, "labels"),
        (Plan(pp=2), batch(4) | {"labels": batch(3)["labels"]}, "to match target batch_size"),
    ):
        for said in run(refused, plan, batch(4), wrong):
            assert text in said
