"""merak's Trainer trains what transformers' own Trainer trains in one process with the same global batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from merak.engine import Plan
from merak.planner import Cluster
from tests.backend.harness import Context, RankError
from tests.engine import zoo
from tests.engine.trainers import (
    Outcome,
    Rows,
    Task,
    as_torchrun,
    assert_same_logs,
    assert_same_parameters,
    masked,
    merak_trainer,
    outcome,
    sampled,
    stock_trainer,
)

Runner = Callable[..., list[Any]]

PLANS = {
    "one-rank": Plan(microbatches=2),
    "replicas": Plan(dp=2, microbatches=1),
    "pipeline": Plan(pp=2, microbatches=2, schedule="shifted", recompute=1.0),
    "both": Plan(dp=2, pp=2, microbatches=2, schedule="1f1b"),
    "zero1": Plan(dp=2, pp=2, microbatches=2, data_parallel="zero1"),
    "many-replicas": Plan(dp=4, microbatches=1),
    "tensor-parallel": Plan(dp=2, tp=2, microbatches=1),
    "widths": Plan(dp=2, tp=(2, 1), pp=2, microbatches=1),
}


def train(context: Context, task: Task, plan: Plan) -> Outcome:
    """What a rank comes to."""
    with as_torchrun(context):
        trainer = merak_trainer(context, task, plan)
        result = trainer.train()
        assert result.global_step == trainer.state.global_step
        return outcome(trainer, trainer.gather_model())


def expect(task: Task, folder: Path) -> Outcome:
    trainer = stock_trainer(task, folder)
    trainer.train()
    return outcome(trainer, trainer.model)


@pytest.mark.parametrize("plan", sampled(PLANS, {"both"}))
def test_same_as_one_process(run: Runner, tmp_path: Path, plan: str) -> None:
    task = Task(settings={"eval_strategy": "epoch"})
    expected = expect(task, tmp_path)
    for found in run(train, task, PLANS[plan], world_size=PLANS[plan].world_size, deadline=120):
        assert_same_logs(found, expected)
        assert_same_parameters(found, expected)


def train_automatically(context: Context, task: Task, cluster: Cluster | None) -> Outcome:
    from merak.hf import Trainer

    with as_torchrun(context):
        trainer = task.trainer(Trainer, context.folder, context.world_size, plan="auto", cluster=cluster)
        assert trainer.plan.world_size == context.world_size
        assert "a step takes" in trainer.found.explain()
        trainer.train()
        return outcome(trainer, trainer.gather_model())


SLOW_NETWORK = Cluster.uniform("CPU core", 2, 1, between="10MB/s")


@pytest.mark.parametrize(
    "cluster", [pytest.param(SLOW_NETWORK, id="given"), pytest.param(None, id="measured", marks=pytest.mark.slow)]
)
def test_an_automatic_plan_trains_as_one_process(run: Runner, tmp_path: Path, cluster: Cluster | None) -> None:
    task = Task(rows=8, accumulation=1)
    expected = expect(task, tmp_path)
    for found in run(train_automatically, task, cluster, world_size=2, deadline=240):
        assert_same_logs(found, expected)
        assert_same_parameters(found, expected)


def automatic_of(context: Context, task: Task, cluster: Cluster) -> str:
    from merak.hf import Trainer

    with as_torchrun(context), pytest.raises(ValueError, match=r"plan='auto'|the cluster") as caught:
        task.trainer(Trainer, context.folder, context.world_size, plan="auto", cluster=cluster)
    return str(caught.value)


@pytest.mark.parametrize(
    ("task", "devices", "error"),
    [
        (Task(rows=8), 2, "plan='auto' chooses the micro-batches: give gradient_accumulation_steps=1"),
        (Task(rows=8, accumulation=1), 4, "has 4 devices, and 2 ranks are running: leave `cluster` away"),
    ],
)
def test_what_an_automatic_plan_cannot_do(run: Runner, task: Task, devices: int, error: str) -> None:
    cluster = Cluster.uniform("CPU core", devices, 1, between="1Gbit/s")
    for found in run(automatic_of, task, cluster, world_size=2):
        assert error in found


def load_best(context: Context, task: Task, plan: Plan) -> float:
    """How far the model after training is from the best checkpoint's."""
    from safetensors.torch import load_file

    with as_torchrun(context):
        trainer = merak_trainer(context, task, plan)
        trainer.train()
        best = Path(trainer.state.best_model_checkpoint)
        assert best.name != f"checkpoint-{trainer.state.global_step}", "rows are random: more training makes it worse"
        assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.state.best_metric, rel=1e-6)
        saved, model = load_file(best / "model.safetensors"), trainer.gather_model().state_dict()
        return max(float((model[name] - tensor).abs().max()) for name, tensor in saved.items())


@pytest.mark.slow
def test_the_best_model_reaches_the_parts_that_ranks_have(run: Runner, tmp_path: Path) -> None:
    settings = {
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "metric_for_best_model": "loss",
        "greater_is_better": False,
        "load_best_model_at_end": True,
    }
    for difference in run(load_best, Task(settings=settings), Plan(tp=2, microbatches=2), world_size=2, deadline=120):
        assert difference == 0


def summed(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """A loss of the user's own, in the form that transformers' documentation shows."""
    scores = outputs.logits[:, :-1].flatten(0, 1)
    return F.cross_entropy(scores, labels[:, 1:].flatten(), reduction="sum") / num_items_in_batch


def sgd() -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    return torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}


CHOICES: dict[str, Task] = {
    "label-smoothing": Task(settings={"label_smoothing_factor": 0.1}),
    "own-loss": Task(keywords={"compute_loss_func": summed}),
    "own-optimizer": Task(keywords={"optimizer_cls_and_kwargs": sgd()}),
    "no-clipping": Task(settings={"max_grad_norm": 0.0, "lr_scheduler_type": "cosine"}),
    "no-accumulation": Task(accumulation=1, settings={"dataloader_drop_last": True, "max_steps": 7}),
    "model-init": Task(keywords={"model_init": lambda: zoo.make("llama")}),
    "random-rows": Task(keywords={"data_collator": masked}),
    "workers": Task(settings={"dataloader_num_workers": 1}),
    "masked-language-model": Task(model="bert", accumulation=1),
    "tokens-seen": Task(
        settings={
            "include_num_input_tokens_seen": "non_padding",
            "lr_scheduler_type": "reduce_lr_on_plateau",
            "lr_scheduler_kwargs": {"patience": 0, "threshold": 1.0},
            "metric_for_best_model": "loss",
            "eval_strategy": "steps",
            "eval_steps": 1,
        }
    ),
}


def train_choice(context: Context, choice: str, plan: Plan) -> Outcome:
    return train(context, CHOICES[choice], plan)  # functions do not travel to ranks, names do


@pytest.mark.parametrize("choice", sampled(CHOICES, {"own-loss"}))
def test_choices_mean_what_they_mean_to_the_stock_trainer(run: Runner, tmp_path: Path, choice: str) -> None:
    plan = Plan(pp=2, microbatches=2) if choice == "random-rows" else PLANS["both"]
    expected = expect(CHOICES[choice], tmp_path)
    for found in run(train_choice, choice, plan, world_size=plan.world_size, deadline=120):
        assert_same_logs(found, expected, 3e-5)
        assert_same_parameters(found, expected, 3e-5)
        assert found.logs[0].get("num_input_tokens_seen") == expected.logs[0].get("num_input_tokens_seen")


def train_from_other_weights(context: Context) -> Outcome:
    with as_torchrun(context):
        trainer = merak_trainer(context, Task(), PLANS["both"])
        with torch.no_grad():
            for parameter in trainer.model.parameters():
                parameter.mul_(1 + context.rank)
        trainer.train()
        return outcome(trainer, trainer.gather_model())


@pytest.mark.slow
def test_all_ranks_start_from_the_first_ones_weights(run: Runner, tmp_path: Path) -> None:
    expected = expect(Task(), tmp_path)
    for found in run(train_from_other_weights, world_size=4, deadline=120):
        assert_same_logs(found, expected)
        assert_same_parameters(found, expected)


class Recorder:
    """Makes callbacks that write down what they were called for."""

    def __init__(self) -> None:
        import transformers

        events: list[str] = []
        names = [
            name for name in dir(transformers.TrainerCallback) if name.startswith("on_") and name != "on_push_begin"
        ]
        methods = {name: lambda self, *_, name=name, **__: events.append(name) for name in names}
        self.callback, self.events = type("Recording", (transformers.TrainerCallback,), methods)(), events


def record(context: Context, task: Task) -> tuple[list[str], int, int, int]:
    with as_torchrun(context):
        recorder = Recorder()
        trainer = merak_trainer(
            context, dataclasses.replace(task, keywords={"callbacks": [recorder.callback]}), PLANS["both"]
        )
        trainer.train()
        first = recorder.events.copy()
        trainer.train()
        return first, trainer.state.global_step, trainer.engine.steps, int(trainer.state.total_flos)


@pytest.mark.slow
def test_callbacks_are_called_as_in_the_stock_trainer(run: Runner, tmp_path: Path) -> None:
    task = Task(settings={"eval_strategy": "epoch", "save_strategy": "epoch"})
    recorder = Recorder()
    trainer = stock_trainer(dataclasses.replace(task, keywords={"callbacks": [recorder.callback]}), tmp_path)
    trainer.train()
    for events, steps, all_steps, operations in run(record, task, world_size=4, deadline=120):
        assert events == recorder.events
        assert (steps, all_steps) == (6, 12)
        assert operations == pytest.approx(trainer.state.total_flos, rel=0.1)  # batches are padded otherwise


def train_in(context: Context, precision: str) -> list[float]:
    with as_torchrun(context):
        trainer = merak_trainer(context, Task(settings={precision: True}), PLANS["both"])
        assert trainer.plan.precision == precision
        trainer.train()
        return [log["loss"] for log in trainer.state.log_history if "loss" in log]


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=pytest.mark.slow)])
def test_precision_is_the_plans(run: Runner, tmp_path: Path, precision: str) -> None:
    expected = expect(Task(), tmp_path)
    for losses in run(train_in, precision, world_size=4, deadline=120):
        assert losses == pytest.approx([log["loss"] for log in expected.logs if "loss" in log], rel=0.02)


class Noisy(Rows):
    """Rows that a rank changes in its own way."""

    def __init__(self, rank: int) -> None:
        super().__init__(8, 1)
        self.rows[0]["input_ids"][0] = 3 + rank
        for row in self.rows[1:]:
            row["input_ids"][0] = 3 + rank


def train_noisy(context: Context) -> None:
    with as_torchrun(context):
        trainer = merak_trainer(context, Task(), PLANS["both"])
        trainer.train_dataset = Noisy(context.rank)
        trainer.train()


def test_ranks_of_a_replica_with_other_batches_are_told(run: Runner) -> None:
    with pytest.raises(RankError, match=r"rank 2 was given values of input_ids whose bits sum to"):
        run(train_noisy, world_size=4)
