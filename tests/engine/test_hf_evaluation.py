"""Evaluation and prediction: every row once, whatever the ranks, and the metrics of one process."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from merak.engine import Plan
from tests.backend.harness import Context
from tests.engine.trainers import (
    IGNORED,
    Outcome,
    Rows,
    Stream,
    Task,
    Unlabelled,
    as_torchrun,
    assert_same_logs,
    assert_same_parameters,
    merak_trainer,
    outcome,
    stock_trainer,
)

Runner = Callable[..., list[Any]]
PLANS = [Plan(dp=2, pp=2, microbatches=2, schedule="shifted"), Plan(dp=4, microbatches=2)]
COUNTS = [9, 2, 8]
"""Of rows for evaluation, 4 at a time: the last ones are fewer than replicas, or all are, or none is missing."""
KEYS = ("test_loss", "test_accuracy", "test_rows")


def predict(context: Context, task: Task, plan: Plan) -> list[Any]:
    with as_torchrun(context):
        trainer = merak_trainer(context, task, plan)
        found = [trainer.predict(Rows(count, 2)) for count in COUNTS]
        assert trainer.evaluate(Rows(9, 2))["eval_loss"] == pytest.approx(found[0].metrics["test_loss"])
        trainer.args.prediction_loss_only = True
        found.append(trainer.predict(Rows(9, 2)))
        return found


@pytest.mark.parametrize("plan", PLANS, ids=["pipeline", "replicas"])
def test_predictions_are_those_of_one_process(run: Runner, tmp_path: Path, plan: Plan) -> None:
    task = Task()
    trainer = stock_trainer(task, tmp_path)
    expected = [trainer.predict(Rows(count, 2)) for count in COUNTS]
    for found in run(predict, task, plan, world_size=plan.world_size, deadline=120):
        assert found.pop().predictions is None
        for mine, theirs in zip(found, expected, strict=True):
            assert {key: mine.metrics[key] for key in KEYS} == pytest.approx(
                {key: theirs.metrics[key] for key in KEYS}, abs=1e-5
            )
            assert np.array_equal(mine.label_ids, theirs.label_ids)
            counted = theirs.label_ids != IGNORED  # logits of padding depend on how much of it there is
            assert np.abs(mine.predictions[counted] - theirs.predictions[counted]).max() < 1e-5


def predict_without_labels(context: Context, plan: Plan, has_train_dataset: bool) -> Any:
    with as_torchrun(context):
        trainer = merak_trainer(context, Task(), plan)
        if not has_train_dataset:
            trainer.train_dataset = None
        found = trainer.predict(Unlabelled(6)).predictions
        return found, trainer.evaluate()["eval_loss"]


@pytest.mark.parametrize("has_train_dataset", [pytest.param(True, marks=pytest.mark.slow), False])
def test_rows_without_labels_are_predicted(run: Runner, tmp_path: Path, has_train_dataset: bool) -> None:
    trainer = stock_trainer(Task(), tmp_path)
    expected, loss = trainer.predict(Unlabelled(6)).predictions, trainer.evaluate()["eval_loss"]
    for found, found_loss in run(predict_without_labels, PLANS[0], has_train_dataset, world_size=4, deadline=120):
        assert np.abs(found - expected).max() < 1e-5
        assert found_loss == pytest.approx(loss, abs=1e-5)


def evaluate_stream(context: Context, plan: Plan) -> Any:
    with as_torchrun(context):
        trainer = merak_trainer(context, Task(), plan)
        return trainer.evaluate(Stream(10)), trainer.predict(Stream(10)).label_ids


def test_rows_of_a_stream_are_not_repeated(run: Runner, tmp_path: Path) -> None:
    trainer = stock_trainer(Task(), tmp_path)
    expected, labels = trainer.evaluate(Stream(10)), trainer.predict(Stream(10)).label_ids
    for found, found_labels in run(evaluate_stream, PLANS[0], world_size=4, deadline=120):
        assert found["eval_rows"] == 10
        assert found["eval_accuracy"] == pytest.approx(expected["eval_accuracy"])
        assert np.array_equal(found_labels, labels)


def train_best(context: Context, task: Task, plan: Plan) -> Outcome:
    import transformers

    with as_torchrun(context):
        keywords = {"callbacks": [transformers.EarlyStoppingCallback(early_stopping_patience=1)]}
        trainer = merak_trainer(context, dataclasses.replace(task, keywords=keywords), plan)
        trainer.train()
        assert trainer.state.best_model_checkpoint is not None
        after = trainer.evaluate()["eval_loss"]
        assert after == pytest.approx(trainer.state.best_metric, abs=1e-5)
        return outcome(trainer, trainer.gather_model())


@pytest.mark.slow
def test_the_best_model_is_loaded_and_training_stops_early(run: Runner, tmp_path: Path) -> None:
    import transformers

    settings = {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "best",
        "metric_for_best_model": "loss",
        "greater_is_better": False,
        "load_best_model_at_end": True,
        "num_train_epochs": 3,
        "learning_rate": 0.05,
    }
    task = Task(settings=settings)
    callback = transformers.EarlyStoppingCallback(early_stopping_patience=1)
    trainer = stock_trainer(dataclasses.replace(task, keywords={"callbacks": [callback]}), tmp_path)
    trainer.train()
    trainer.evaluate()
    expected = outcome(trainer, trainer.model)
    assert trainer.state.global_step < trainer.state.max_steps
    for found in run(train_best, task, PLANS[0], world_size=4, deadline=120):
        assert_same_logs(found, expected, 1e-4)
        assert_same_parameters(found, expected, 1e-4)
    assert torch.is_grad_enabled()
