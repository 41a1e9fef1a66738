"""The same training by transformers' own Trainer in one process and by merak's on many ranks."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from merak.engine import Plan
from tests.backend.harness import Context
from tests.engine import zoo

IGNORED = -100
COUNT = 22
"""Rows of the data set for training: with 8 a step there is a last step with 6."""


class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Rows of text, each with a length and a count of targets of its own."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.rows = []
        for _ in range(count):
            length = int(torch.randint(3, 9, (), generator=generator))
            ids = torch.randint(3, zoo.VOCABULARY, (length,), generator=generator)
            labels = ids.masked_fill(torch.rand(length, generator=generator) < 0.3, IGNORED)
            labels[-1] = ids[-1]
            self.rows.append({"input_ids": ids, "labels": labels})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.rows[index]


class Unlabelled(Rows):
    """Rows of one length, without labels."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(5)
        self.rows = [{"input_ids": torch.randint(3, zoo.VOCABULARY, (6,), generator=generator)} for _ in range(count)]


class Stream(torch.utils.data.IterableDataset[dict[str, torch.Tensor]]):
    """Rows that come one after the other, and nobody knows how many."""

    def __init__(self, count: int) -> None:
        self._rows = Rows(count, 2)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return iter(self._rows.rows)


def padded(rows: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """A batch of rows, as long as its longest one."""
    ids = nn.utils.rnn.pad_sequence([row["input_ids"] for row in rows], batch_first=True)
    lengths = torch.tensor([[len(row["input_ids"])] for row in rows])
    batch = {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) < lengths).long()}
    if "labels" in rows[0]:
        labels = [row["labels"] for row in rows]
        batch["labels"] = nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED)
    return batch


def masked(rows: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """A batch with some ids changed at random, by each of the generators that collators may use."""
    batch = padded(rows)
    batch["input_ids"][torch.rand(batch["input_ids"].shape) < 0.1] = 3
    batch["input_ids"][:, 0] = random.randrange(3, zoo.VOCABULARY)
    batch["input_ids"][:, 1] = int(np.random.randint(3, zoo.VOCABULARY))
    return batch


def accuracy(prediction: Any) -> dict[str, float]:
    """A metric that every row and every target has a part in."""
    logits, labels = torch.tensor(prediction.predictions), torch.tensor(prediction.label_ids)
    hits = (logits.argmax(-1)[:, :-1] == labels[:, 1:]) & (labels[:, 1:] != IGNORED)
    return {"accuracy": float(hits.sum() / (labels[:, 1:] != IGNORED).sum()), "rows": len(labels)}


def sampled(names: Iterable[str], in_every_run: Collection[str]) -> list[Any]:
    """Parameters for pytest, of which those that are not named run with `-m slow` only."""
    return [pytest.param(name, marks=() if name in in_every_run else pytest.mark.slow) for name in names]


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained, the same for one process and for many ranks.

    Attributes:
        rows: of a step and of an evaluation's batch, over all replicas, without accumulation.
        settings: more of `TrainingArguments`.
        keywords: more of `Trainer`.
    """

    rows: int = 4
    accumulation: int = 2
    model: str = "llama"
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    keywords: dict[str, Any] = dataclasses.field(default_factory=dict)
    evaluated: int = 9

    def trainer(self, kind: Any, folder: Path | str, replicas: int = 1, **more: Any) -> Any:
        """A trainer of one process, or with a plan of one rank."""
        import transformers

        settings: dict[str, Any] = {
            "per_device_train_batch_size": self.rows // replicas,
            "per_device_eval_batch_size": self.rows // replicas,
            "gradient_accumulation_steps": self.accumulation,
            "num_train_epochs": 2,
            "learning_rate": 1e-2,
            "adam_epsilon": 1e-4,
            "weight_decay": 0.1,
            "max_grad_norm": 0.5,
            "warmup_steps": 2,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
        }
        args = transformers.TrainingArguments(str(folder), **(settings | self.settings))
        return kind(
            model=None if "model_init" in self.keywords else zoo.make(self.model),
            args=args,
            train_dataset=Rows(COUNT, 1),
            eval_dataset=Rows(self.evaluated, 2),
            compute_metrics=accuracy,
            **({"data_collator": padded} | self.keywords | more),
        )


@dataclasses.dataclass
class Outcome:
    """What a trainer has come to."""

    logs: list[dict[str, float]]
    parameters: dict[str, torch.Tensor]
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    predictions: Any = None


def outcome(trainer: Any, parameters: nn.Module, **more: Any) -> Outcome:
    """Logs and a copy of the parameters."""
    return Outcome(trainer.state.log_history, {n: p.detach().clone() for n, p in parameters.named_parameters()}, **more)


@contextlib.contextmanager
def as_torchrun(context: Context) -> Iterator[None]:
    """The environment that torchrun gives a rank."""
    places = {"RANK": context.rank, "LOCAL_RANK": context.rank}
    sizes = {"WORLD_SIZE": context.world_size, "LOCAL_WORLD_SIZE": context.world_size}
    names = {name: str(value) for name, value in (places | sizes | {"OMP_NUM_THREADS": 1}).items()}
    with mock.patch.dict(os.environ, names):
        yield


def merak_trainer(context: Context, task: Task, plan: Plan, folder: Path | str | None = None) -> Any:
    """A trainer on a rank."""
    from merak.hf import Trainer

    return task.trainer(Trainer, folder or context.folder, plan.dp, plan=plan)


def stock_trainer(task: Task, folder: Path) -> Any:
    """transformers' own, in this process."""
    import transformers

    return task.trainer(transformers.Trainer, folder)


def assert_same_logs(found: Outcome, expected: Outcome, tolerance: float = 1e-5) -> None:
    """The same losses, norms of gradients, rates and metrics at the same steps."""
    keys = ("loss", "grad_norm", "learning_rate", "epoch", "step", "eval_loss", "eval_accuracy", "eval_rows")
    assert len(found.logs) == len(expected.logs)
    for mine, theirs in zip(found.logs, expected.logs, strict=True):
        assert [key for key in keys if key in mine] == [key for key in keys if key in theirs]
        for key in keys:
            if key in mine:
                assert abs(mine[key] - theirs[key]) <= tolerance * max(1.0, abs(theirs[key])), (key, mine, theirs)


def assert_same_parameters(found: Outcome, expected: Outcome, tolerance: float = 1e-5) -> None:
    """The same values, to within a tolerance relative to a tensor's norm."""
    for name, theirs in expected.parameters.items():
        difference = float((found.parameters[name] - theirs).norm())
        assert difference <= tolerance * max(1.0, float(theirs.norm())), (name, difference)
