"""What merak's Trainer refuses, and how it takes plans."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from merak.engine import Plan
from merak.hf.arguments import check_supported, read_plan
from merak.hf.data import ReplicaItems, share
from tests.backend.harness import Context
from tests.engine.trainers import Stream, Task, as_torchrun, merak_trainer

Runner = Callable[..., list[Any]]
REFUSED: dict[str, dict[str, Any]] = {
    "torch_compile": {"torch_compile": True},
    "auto_find_batch_size": {"auto_find_batch_size": True},
    "activation_checkpointing": {"gradient_checkpointing": True},
    "use_liger_kernel": {"use_liger_kernel": True},
    "neftune_noise_alpha": {"neftune_noise_alpha": 5.0},
    "debug": {"debug": "underflow_overflow"},
    "fp16_full_eval, bf16_full_eval": {"bf16_full_eval": True},
    "eval_use_gather_object": {"eval_use_gather_object": True},
    "enable_jit_checkpoint": {"enable_jit_checkpoint": True},
    "train_sampling_strategy": {"train_sampling_strategy": "batch_rebalance"},
    "accelerator_config": {"accelerator_config": {"split_batches": True}},
    "optim": {"optim": "schedule_free_adamw"},
    "push_to_hub": {"push_to_hub": True},
}


def arguments(**settings: Any) -> Any:
    import transformers

    return transformers.TrainingArguments("unused", report_to="none", use_cpu=True, **settings)


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_that_cannot_be_obeyed_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"\n  {name}: "):
        check_supported(arguments(**REFUSED[name]))


@pytest.mark.parametrize("name", ["deepspeed", "fsdp", "parallelism_config"])
def test_other_engines_are_refused(name: str) -> None:
    args = arguments()
    setattr(args, name, "something")
    with pytest.raises(ValueError, match=f"\n  {name}: the plan says"):
        check_supported(args)


def test_a_plan_is_read_from_what_users_have(tmp_path: Path) -> None:
    plan = Plan(dp=2, pp=2, microbatches=4)
    plan.save(tmp_path / "plan.json")
    for one in (plan, str(tmp_path / "plan.json"), tmp_path / "plan.json", {"dp": 2, "pp": 2, "microbatches": 4}):
        assert read_plan(one) == plan
    with pytest.raises(ValueError, match=r"it must be a merak\.Plan"):
        read_plan(3)  # type: ignore[arg-type]


def test_a_process_without_ranks_is_told_what_to_do(tmp_path: Path) -> None:
    from merak.hf import Trainer

    with pytest.raises(ValueError, match="launch with torchrun"):
        Task().trainer(Trainer, tmp_path, plan=Plan())
    with pytest.raises(ValueError, match=r"needs a plan, .* give plan='auto', or merak\.Plan"):
        Task().trainer(Trainer, tmp_path)


def construct(context: Context, plan: Plan, what: str) -> str:
    from merak.hf import Trainer

    class Own(Trainer):
        def compute_loss(self, *positional: Any, **keywords: Any) -> Any:
            """Not called."""

    with as_torchrun(context):
        kind = Own if what == "subclass" else Trainer
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
        more = {"optimizers": (optimizer, None)} if what == "optimizer" else {}
        settings = {"bf16": True} if what == "precision" else {}
        with pytest.raises(ValueError) as raised:  # noqa: PT011 (the test looks at it)
            dataclasses.replace(Task(), settings=settings).trainer(kind, context.folder, plan=plan, **more)
        return str(raised.value)


@pytest.mark.parametrize(
    ("plan", "what", "message"),
    [
        (Plan(pp=2), "", "the plan is for 2 ranks (dp 1 x tp 1 x pp 2), and 1 are running"),
        (Plan(precision="fp16"), "precision", "the plan's precision is fp16, and the arguments say bf16"),
        (Plan(), "optimizer", "give optimizer_cls_and_kwargs"),
        (Plan(), "subclass", "compute_loss: the engine does not call a subclass's"),
    ],
)
def test_what_does_not_fit_is_refused_at_construction(run: Runner, plan: Plan, what: str, message: str) -> None:
    (found,) = run(construct, plan, what, world_size=1)
    assert message in found


def construct_on_meta(context: Context) -> None:
    from merak.hf import Trainer

    with as_torchrun(context), pytest.raises(ValueError, match="the model is on the meta device"):
        Trainer(torch.nn.Linear(1, 1, device="meta"), arguments(), plan=Plan())


def test_a_model_without_memory_is_refused(run: Runner) -> None:
    run(construct_on_meta, world_size=1)


def construct_on_one(context: Context) -> str:
    task = Task(keywords={"no_such": 1} if context.rank == 1 else {})
    with as_torchrun(context), pytest.raises((TypeError, ValueError)) as raised:
        merak_trainer(context, task, Plan(dp=2))
    with as_torchrun(context):
        merak_trainer(context, Task(), Plan(dp=2))  # ranks are still together
    return f"{type(raised.value).__name__}: {raised.value}"


def test_what_one_rank_cannot_make_none_has(run: Runner) -> None:
    others, mine = run(construct_on_one, world_size=2)
    assert mine.startswith("TypeError: ")
    assert others.startswith("ValueError: the Trainer was not made: rank 1: TypeError: ")


def search(context: Context) -> None:
    with as_torchrun(context):
        trainer = merak_trainer(context, Task(), Plan())
        with pytest.raises(ValueError, match="hyperparameter_search is not supported"):
            trainer.hyperparameter_search()
        with pytest.raises(ValueError, match=r"push_to_hub is not supported: .* save_model"):
            trainer.push_to_hub()


def test_a_search_and_a_push_are_refused(run: Runner) -> None:
    run(search, world_size=1)


@pytest.mark.parametrize("count", range(1, 12))
@pytest.mark.parametrize("replicas", [1, 2, 3, 5])
def test_replicas_share_every_item(count: int, replicas: int) -> None:
    parts = [share(range(count), replica, replicas) for replica in range(replicas)]
    if count < replicas:
        assert all(list(part) == list(range(count)) for part in parts)
    else:
        assert [item for part in parts for item in part] == list(range(count))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(("drop_last", "counts"), [(False, [5, 5, 5]), (True, [4, 4, 4])])
def test_a_stream_is_dealt_out_evenly(drop_last: bool, counts: list[int]) -> None:
    assert [len(list(ReplicaItems(Stream(13), 2, r, 3, drop_last))) for r in range(3)] == counts
