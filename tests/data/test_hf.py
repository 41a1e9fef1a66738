"""`merak.hf.Trainer` with random layerwise token dropping and a curriculum, beside transformers' Trainer with both."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from merak.data import CurriculumSampler, KeepSchedule, Pacing, RandomLTD
from merak.engine import Plan
from merak.hf import BudgetArguments, CurriculumArguments, RandomLTDArguments
from merak.hf.data_efficiency import CurriculumOrder, DataArguments, DataEfficiency
from merak.planner import Cluster
from tests.backend.harness import Context, RankError
from tests.engine import zoo
from tests.engine.trainers import (
    COUNT,
    Outcome,
    Task,
    as_torchrun,
    assert_same_logs,
    assert_same_parameters,
    outcome,
    sampled,
)

Runner = Callable[..., list[Any]]
ROWS, STEPS = 8, 4  # of an optimizer's step; of the training: two epochs
DROPPING = RandomLTDArguments(start=2, steps=3, quantum=1, layers=[1, 2], seed=5)
RARITY = np.random.default_rng(0).permutation(COUNT).astype(float)
PACING = Pacing.linear(40, 100, 3, by="percentile")
CURRICULUM = CurriculumArguments({"rarity": RARITY}, {"rarity": PACING}, length=Pacing.linear(4, 8, 3), seed=2)
TASK = Task(settings={"max_steps": STEPS, "num_train_epochs": 3})


def expected(folder: Path, task: Task = TASK) -> Outcome:
    """transformers' Trainer, with the sampler, the truncation and the dropping put around it by hand."""
    import transformers

    class Stock(transformers.Trainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return CurriculumOrder(
                CurriculumSampler({"rarity": RARITY}, {"rarity": PACING}, batch_size=ROWS, seed=2, samples=COUNT)
            )

        def get_batch_samples(self, iterator: Any, *others: Any) -> Any:
            """Truncates before targets are counted."""
            length = int(Pacing.linear(4, 8, 3)(self.state.global_step))
            return super().get_batch_samples(
                ({key: one[:, :length] for key, one in batch.items()} for batch in iterator), *others
            )

    class Steps(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ltd.step()

    trainer = task.trainer(Stock, folder)
    ltd = RandomLTD(trainer.model, [1, 2], schedule=KeepSchedule(2, 3, quantum=1), seed=5)
    trainer.add_callback(Steps())
    trainer.train()
    return outcome(trainer, trainer.model)


def train(context: Context, plan: Plan) -> tuple[Outcome, dict[str, float]]:
    from merak.hf import Trainer

    with as_torchrun(context):
        trainer = TASK.trainer(Trainer, context.folder, plan.dp, plan=plan, random_ltd=DROPPING, curriculum=CURRICULUM)
        trainer.train()
        return outcome(trainer, trainer.gather_model()), trainer._used()


PLANS = {"pipeline": Plan(pp=2), "tensor-parallel": Plan(tp=2, recompute=1.0)}


@pytest.mark.parametrize("name", sampled(PLANS, {"pipeline"}))
def test_same_as_one_process(run: Runner, tmp_path: Path, name: str) -> None:
    plan = PLANS[name]
    theirs = expected(tmp_path)
    for found, counts in run(train, plan, world_size=plan.world_size, deadline=120):
        assert_same_logs(found, theirs)
        assert_same_parameters(found, theirs)
        assert counts["sequences"] == ROWS * STEPS
        assert counts["layer_tokens"] < counts["raw_tokens"]
        assert found.logs[0]["raw_tokens"] == ROWS * 4


def train_automatically(context: Context) -> tuple[Outcome, Plan]:
    from merak.hf import Trainer

    with as_torchrun(context):
        task = Task(rows=ROWS, accumulation=1, settings=TASK.settings)
        efficiency = {"random_ltd": DROPPING, "curriculum": CURRICULUM}
        slow = Cluster.uniform("CPU core", 2, 1, between="10MB/s")
        trainer = task.trainer(Trainer, context.folder, 2, plan="auto", cluster=slow, **efficiency)
        trainer.train()
        assert trainer._used()["layer_tokens"] < trainer._used()["raw_tokens"]
        return outcome(trainer, trainer.gather_model()), trainer.plan


def test_an_automatic_plan_drops_the_same(run: Runner, tmp_path: Path) -> None:
    found = run(train_automatically, world_size=2, deadline=240)
    m = found[0][1].microbatches  # tokens are drawn for each
    theirs = expected(tmp_path, Task(rows=ROWS // m, accumulation=m, settings=TASK.settings))
    for mine, plan in found:
        assert (plan.dp, plan.pp) == (1, 2)
        assert_same_logs(mine, theirs)
        assert_same_parameters(mine, theirs)


def resume(context: Context, plan: Plan, folder: Path, interrupt: bool) -> tuple[list[float], float]:
    """Losses after step 2, without a break or with one."""
    from merak.hf import Trainer

    with as_torchrun(context):
        task = Task(settings={"max_steps": STEPS, "save_strategy": "steps", "save_steps": 2})
        made = {"plan": plan, "random_ltd": DROPPING, "curriculum": CURRICULUM}
        trainer = task.trainer(Trainer, folder, plan.dp, **made)
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-2") if interrupt else None)
        losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
        return losses[2:], trainer._used()["layer_tokens"]


def test_resumes_exactly(run: Runner, tmp_path: Path) -> None:
    plan = Plan(dp=2)
    through = run(resume, plan, tmp_path, False, world_size=2, deadline=120)
    again = run(resume, plan, tmp_path, True, world_size=2, deadline=120)
    assert again == through
    assert len(through[0][0]) == STEPS - 2


BUDGET = BudgetArguments(100.0, warmup=0.35, least_ratio=0.1)


def budgeted(context: Context, plan: Plan, folder: Path, interrupt: bool) -> list[tuple[float, ...]]:
    """Of each step its learning rate, its loss, and layer-tokens used by then."""
    from merak.hf import Trainer

    with as_torchrun(context):
        task = Task(settings={"max_steps": 20, "num_train_epochs": 10, "save_strategy": "steps", "save_steps": 2})
        made = {"plan": plan, "random_ltd": DROPPING, "curriculum": CURRICULUM, "budget": BUDGET}
        trainer = task.trainer(Trainer, folder, plan.dp, **made)
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-2") if interrupt else None)
        lines = [line for line in trainer.state.log_history if "loss" in line]
        return [(line["learning_rate"], line["loss"], line["layer_tokens"]) for line in lines]


def test_a_budget_of_layer_tokens(run: Runner, tmp_path: Path) -> None:
    plan = Plan(dp=2)
    through = run(budgeted, plan, tmp_path, False, world_size=2, deadline=120)
    assert through[0] == through[1]
    rates, _, used = zip(*through[0], strict=True)
    assert used[0] == ROWS * (4 + 2 * 2) / 3  # one of three layers sees 4 tokens, two see 2
    assert used[-2] < 100 <= used[-1]
    expected = [
        0.01 * (c / 35 if c < 35 else 0.1 + 0.9 * (1 + math.cos(math.pi * (c - 35) / 65)) / 2)
        for c in (0.0, *used[:-1])
    ]
    assert rates == pytest.approx(expected, rel=1e-12)
    assert run(budgeted, plan, tmp_path, True, world_size=2, deadline=120) == through


def test_budgets_that_do_not_do() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    asked = DataArguments(budget=BudgetArguments(10, warmup=11))
    with pytest.raises(ValueError, match="decay must end after warm-up"):
        DataEfficiency(torch.nn.Linear(1, 1), asked, (0, 0)).rates(optimizer)


BAD: dict[str, dict[str, Any]] = {
    "numbers below 3": {"random_ltd": RandomLTDArguments(2, layers=[7])},
    "different numbers": {"curriculum": CurriculumArguments({"rarity": RARITY[1:]}, {"rarity": PACING})},
    "no metrics are given": {"curriculum": CurriculumArguments(None, {"rarity": PACING})},
}
"""By what is said of them."""


def refused(context: Context, words: str) -> None:
    from merak.hf import Trainer

    with as_torchrun(context):
        TASK.trainer(Trainer, context.folder, **({"plan": Plan()} | BAD[words])).train()


@pytest.mark.parametrize("words", BAD)
def test_bad_arguments(run: Runner, words: str) -> None:
    with pytest.raises(RankError, match=words):
        run(refused, words, world_size=1)


def made_by_function(context: Context) -> None:
    from merak.hf import Trainer

    task = Task(keywords={"model_init": lambda: zoo.make("llama")})
    with as_torchrun(context):
        task.trainer(Trainer, context.folder, plan=Plan(), random_ltd=DROPPING)


def test_models_that_functions_make_drop_no_tokens(run: Runner) -> None:
    with pytest.raises(RankError, match="give `model` instead of model_init"):
        run(made_by_function, world_size=1)


def test_shares_of_the_training() -> None:
    assert RandomLTDArguments(4, steps=0.5).schedule(300) == KeepSchedule(4, 150)
    assert RandomLTDArguments(4, steps=70, end=9, quantum=2).schedule(300) == KeepSchedule(4, 70, 9, 2)


def test_data_that_does_not_do() -> None:
    given = DataEfficiency(torch.nn.Linear(1, 1), DataArguments(curriculum=CURRICULUM), (0, 0))
    with pytest.raises(ValueError, match="those of a stream do not have"):
        given.check_stream()
    with pytest.raises(ValueError, match="a step takes 23 rows, and the data set has 22"):
        given.sampler(range(COUNT), COUNT + 1)
    order = given.sampler(range(COUNT), 4)
    assert order is not None
    assert len(order) == 20
    order.set_epoch(1)
    assert list(order)[:4] == list(order.curriculum.batch(5))


def test_nothing_without_arguments() -> None:
    nothing = DataEfficiency(torch.nn.Linear(1, 1), DataArguments(), (0, 0))
    batch = {"input_ids": torch.ones(2, 3)}
    assert nothing.sampler(range(10), 2) is None
    nothing.check_stream()
    assert nothing.microbatches([nothing.shortened(batch, 0)], 0) == [batch]
    assert nothing.used(list) == {}
