"""One run: an arm trained until its budget is used, with checkpoints to go on from.

Batches, kept tokens and learning rates are functions of the seed and of what has been counted, so that a checkpoint is
the tensors of model and optimizer and some numbers: a safetensors file, replaced as a whole. The seconds are those of
the process's CPU, in training steps alone, with what curriculum and dropping cost; validation is left out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from benchmarks.data.experiment.arms import Run, Scale
from benchmarks.data.experiment.corpus import Data
from benchmarks.data.experiment.model import GPT
from merak.data import (
    Counters,
    CurriculumSampler,
    LayerTokenLR,
    MetricIndex,
    RandomLTD,
    StepFlops,
    TruncateLength,
    step_flops,
)

Batch = dict[str, torch.Tensor]
RARITY = "vocabulary_rarity"


class Training:
    """A run.

    Args:
        index: of the rarity of the training rows.
        between: is called before each step; it may wait.
    """

    def __init__(self, run: Run, scale: Scale, data: Data, index: MetricIndex, between: Callable[[], None]) -> None:
        self.run, self.scale, self.data, self.between = run, scale, data, between
        arm = run.arm
        torch.manual_seed(run.seed)
        self.model = GPT(data.vocabulary, scale.tokens, scale.hidden, scale.layers, scale.heads)
        self.ltd = RandomLTD(self.model, arm.layers, schedule=arm.keep_schedule(scale), seed=run.seed)
        self.counters = Counters(self.ltd, flops=self._flops())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=run.rate, betas=(0.9, 0.95), weight_decay=0.1)
        budget = arm.budget(scale)
        self.schedule = LayerTokenLR(
            self.optimizer, self.counters, warmup_tokens=0.02 * budget, decay_tokens=budget, least_ratio=0.01
        )
        rarity, length = arm.rarity_pacing(scale), arm.length_pacing(scale)
        self.sampler = CurriculumSampler(
            index if rarity else None,
            {RARITY: rarity} if rarity else None,
            batch_size=arm.batch(scale),
            seed=run.seed,
            samples=None if rarity else len(data.train),
        )
        self.truncate = TruncateLength(length) if length else None
        self.step, self.seconds = 0, 0.0
        self.curve: list[dict[str, float]] = []

    def _flops(self) -> StepFlops:
        """A function of rows, tokens and kept tokens; counted on a model that drops nothing yet."""
        return step_flops(self.ltd, self._batch(self.data.train[:1]))

    @staticmethod
    def _batch(rows: Any) -> Batch:
        tokens = torch.from_numpy(np.asarray(rows).astype(np.int64))
        return {"input_ids": tokens[:, :-1], "labels": tokens[:, 1:]}

    def finish(self, checkpoint: Path, *, every: int = 200, looks: int = 20) -> dict[str, Any]:
        """Trains to the end, from a checkpoint if there is one; the result.

        Args:
            every: so many steps there is a checkpoint.
            looks: points of the curve.
        """
        if checkpoint.exists():
            self._load(checkpoint)
        budget = self.run.arm.budget(self.scale)
        while not self.counters.reached(layer_tokens=budget):
            self.between()
            self._train_step()
            if self.counters.layer_tokens >= budget * (len(self.curve) + 1) / looks:
                self.curve.append({**self._numbers(), "loss": self.validate(256)})
            if self.step % every == 0:
                self._save(checkpoint)
        result = {**self._numbers(), "loss": self.validate(len(self.data.validation)), "curve": self.curve}
        checkpoint.unlink(missing_ok=True)
        return result

    def _train_step(self) -> None:
        begin = time.process_time()
        drawn = list(self.sampler.batch(self.step))
        batch = self._batch(self.data.train[sorted(drawn)])
        if self.truncate is not None:
            batch = self.truncate(batch, self.step)
        self.model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.counters.add(batch["input_ids"].shape)
        self.ltd.step()
        self.schedule.step()
        self.step += 1
        self.seconds += time.process_time() - begin

    @torch.no_grad()
    def validate(self, rows: int) -> float:
        """Nats a token, of whole rows without dropping."""
        self.model.eval()
        total, count = 0.0, min(rows, len(self.data.validation))
        for begin in range(0, count, 32):
            self.between()
            part = self.data.validation[begin : min(begin + 32, count)]
            total += float(self.model(**self._batch(part)).loss) * len(part)
        self.model.train()
        return total / count

    def _numbers(self) -> dict[str, float]:
        return {**self.counters.log(), "steps": self.step, "cpu_seconds": self.seconds}

    def _save(self, path: Path) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
        about = {
            "run": self.run.name,
            "numbers": self._numbers(),
            "schedule": self.schedule.state_dict(),
            "curve": self.curve,
        }
        unfinished = path.with_suffix(".part")
        save_file(tensors, unfinished, {"about": json.dumps(about)})
        unfinished.replace(path)

    def _load(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["about"])
            if about["run"] != self.run.name:
                raise ValueError(f"{path} is a checkpoint of {about['run']!r}, not of {self.run.name!r}: remove it")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a file, not a dict
        names = [name.removeprefix("model.") for name in tensors if name.startswith("model.")]
        self.model.load_state_dict({name: tensors[f"model.{name}"] for name in names})
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith("optimizer."):
                _, number, name = key.split(".", 2)
                state.setdefault(int(number), {})[name] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.curve = about["curve"]
        self.step, self.seconds = int(about["numbers"]["steps"]), about["numbers"]["cpu_seconds"]
        self.counters.load_state_dict(about["numbers"])
        self.ltd.at(self.step)
        self.schedule.load_state_dict(about["schedule"])
