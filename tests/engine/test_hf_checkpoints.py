"""What merak's Trainer saves: plain Hugging Face models, and trainings that any plan resumes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from merak.engine import Plan
from tests.backend.harness import Context
from tests.engine.trainers import Outcome, Task, as_torchrun, assert_same_parameters, merak_trainer, outcome, sampled

Runner = Callable[..., list[Any]]
WRITER = Plan(dp=2, pp=2, microbatches=2, schedule="shifted", recompute=1.0)
READERS = {
    "same": WRITER,
    "pipeline": Plan(pp=4, microbatches=2),
    "replicas": Plan(dp=4, microbatches=1),
    "zero1": Plan(dp=2, pp=2, microbatches=1, data_parallel="zero1"),
}
SAVING = Task(settings={"save_strategy": "steps", "save_steps": 2, "eval_strategy": "epoch"})
"""Two epochs of three steps: the checkpoints are in the middle of epochs."""


BY_LENGTH = Task(settings=SAVING.settings | {"train_sampling_strategy": "group_by_length"})


def train_and_resume(context: Context, plan: Plan, task: Task) -> tuple[Outcome, Outcome]:
    with as_torchrun(context):
        trainer = merak_trainer(context, task, WRITER)
        trainer.train()
        whole = outcome(trainer, trainer.gather_model())
        trainer = merak_trainer(context, task, plan)
        trainer.train(resume_from_checkpoint=str(context.folder / "checkpoint-4"))
        return whole, outcome(trainer, trainer.gather_model())


@pytest.mark.parametrize("plan", sampled(READERS, {"pipeline"}))
def test_a_resumed_training_goes_on_under_any_plan(run: Runner, plan: str) -> None:
    goes_on(run, plan, SAVING)


@pytest.mark.slow
def test_a_resumed_training_takes_rows_of_like_length(run: Runner) -> None:
    goes_on(run, "pipeline", BY_LENGTH)


def goes_on(run: Runner, plan: str, task: Task) -> None:
    """A training that was resumed is as if nothing had happened."""
    for whole, resumed in run(train_and_resume, READERS[plan], task, world_size=4, deadline=120):
        assert [log["step"] for log in resumed.logs] == [log["step"] for log in whole.logs]
        for mine, theirs in zip(resumed.logs, whole.logs, strict=True):
            for key in ("loss", "grad_norm", "learning_rate", "eval_loss"):
                assert mine.get(key) == pytest.approx(theirs.get(key), abs=1e-5), (key, mine, theirs)
        assert_same_parameters(resumed, whole)


def save(context: Context) -> tuple[list[str], bool, list[list[int]], Outcome]:
    import transformers

    with as_torchrun(context):
        task = Task(settings={"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2})
        trainer = merak_trainer(context, task, WRITER)
        trainer.train()
        trainer.save_model()
        kept = sorted(path.name for path in context.folder.iterdir() if path.is_dir())
        read = transformers.AutoModelForCausalLM.from_pretrained(context.folder)
        model = trainer.gather_model()
        same = all(map(torch.equal, read.state_dict().values(), model.state_dict().values()))
        prompt = torch.tensor([[3, 4, 5]])
        texts = [one.eval().generate(prompt, max_new_tokens=5, do_sample=False).tolist()[0] for one in (read, model)]
        trainer.train(resume_from_checkpoint=True)  # it was at its end: nothing is left to do
        return kept, same, texts, outcome(trainer, trainer.gather_model())


def test_the_whole_model_is_saved_and_generates(run: Runner) -> None:
    outcomes = run(save, world_size=4, deadline=120)
    for kept, same, texts, after in outcomes:
        assert kept == ["checkpoint-5", "checkpoint-6"]
        assert same
        assert texts[0] == texts[1]
        assert_same_parameters(after, outcomes[0][3], 0)


def continue_from_weights(context: Context) -> list[Any]:
    with as_torchrun(context):
        task = Task(settings={"save_strategy": "epoch", "save_only_model": True})
        merak_trainer(context, task, WRITER).train()
        trainer = merak_trainer(context, task, WRITER)
        before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
        texts = []
        for name in ("checkpoint-3", "nowhere"):
            with pytest.raises(ValueError, match="cannot be resumed from: it has no engine") as raised:
                trainer.train(resume_from_checkpoint=str(context.folder / name))
            texts.append(str(raised.value))
        return [texts, all(map(torch.equal, before, trainer.model.parameters()))]


@pytest.mark.slow
def test_weights_alone_are_not_resumed(run: Runner) -> None:
    """The optimizer would begin anew, and nobody would notice."""
    outcomes = run(continue_from_weights, world_size=4, deadline=120)
    assert outcomes == [outcomes[0]] * 4
    texts, unchanged = outcomes[0]
    assert unchanged
    assert all("save_only_model" in text and "give the model of from_pretrained" in text for text in texts)


def save_to_nowhere(context: Context) -> list[str]:
    plan = Plan(pp=2, microbatches=2)
    with as_torchrun(context):
        trainer = merak_trainer(context, Task(settings={"max_steps": 1}), plan)
        trainer.train()
        folder, said = "/proc/nowhere", []
        trainer.args.output_dir = folder  # which rank 0 alone writes to
        for save in (trainer.save_model, lambda: trainer._save_checkpoint(trainer.model, None)):
            with pytest.raises((OSError, ValueError)) as raised:
                save()
            said.append(f"{type(raised.value).__name__}: {raised.value}")
        assert trainer.evaluate()["eval_loss"] > 0  # ranks are still together
        return said


def test_what_rank_0_cannot_write_all_ranks_hear_of(run: Runner) -> None:
    first, second = run(save_to_nowhere, world_size=2, deadline=120)
    for mine, others in zip(first, second, strict=True):
        assert mine.startswith("FileNotFoundError: ")
        assert others.startswith("ValueError: the model was not saved: rank 0: FileNotFoundError: ")
