"""How a step is computed: plain data parallelism by DistributedDataParallel.

The loop knows this class by the methods of `loop.Engine` alone, so that another way of spreading the model over the
ranks can take its place.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from common.seeds import mix
from common.world import World
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.nn.parallel import DistributedDataParallel

from .data import IGNORED, Batch
from .options import Options


def learning_rate(step: int, options: Options) -> float:
    """The rate of step 0, 1, ...: a straight rise over the warm-up, then half a cosine down to a tenth."""
    if step < options.warmup:
        return options.learning_rate * (step + 1) / options.warmup
    progress = (step - options.warmup) / max(1, options.steps - options.warmup)
    return options.learning_rate * (0.55 + 0.45 * math.cos(math.pi * progress))


def build_optimizer(model: nn.Module, options: Options) -> torch.optim.Optimizer:
    """AdamW that decays matrices and leaves vectors (biases, layer norms) alone."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": options.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.95), fused=True)


class DataParallelEngine:
    """A model replicated on every rank. Each rank passes its slice of the global batch; losses are of the whole."""

    def __init__(self, model: nn.Module, options: Options, world: World) -> None:
        self._options = options
        self._world = world
        self.replica, self.replicas = world.rank, world.size
        self._step = 0
        self._model = DistributedDataParallel(model, gradient_as_bucket_view=True)
        self._optimizer = build_optimizer(model, options)

    def train_step(self, batch: Batch) -> float:
        """Forward, backward, clipping and the optimizer's step; the mean loss over the global batch before the step."""
        # Dropout is a function of seed, step and rank, so a resumed run needs no random state from the past.
        torch.manual_seed(mix(self._options.seed, self._step, self._world.rank))
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self._step, self._options)
        self._model.train()
        self._optimizer.zero_grad()
        loss = self._model(**batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), self._options.clip)
        self._optimizer.step()
        self._step += 1
        return self._world.mean(loss.item())

    @torch.no_grad()
    def eval_step(self, batch: Batch) -> float:
        """The mean loss per target of the global batch, ignored targets left out; nothing is learnt.

        The slices may hold different numbers of targets, even none, so sums travel instead of means.
        """
        module = self._model.module
        module.eval()
        targets = batch["labels"][:, 1:].flatten()
        logits = module(input_ids=batch["input_ids"]).logits[:, :-1].flatten(0, 1)
        loss = nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
        total, count = self._world.sum([loss.item(), float((targets != IGNORED).sum())])
        return total / count

    def state(self) -> dict[str, Any]:
        """Weights and AdamW's moments by parameter name: tensors only, since what is no tensor would be pickled.

        What the optimizer holds besides (learning rate, betas) follows from the options and the step.
        """
        weights = without_ties(get_model_state_dict(self._model))
        return {"model": weights, "optimizer": self._optimizer_state()["state"]}

    def load_state(self, state: dict[str, Any], step: int) -> None:
        """Goes on after `step` steps with a state in the form of `state()`."""
        # Not strict, because the second name of a tied weight is missing; it is set through the first.
        set_model_state_dict(self._model, state["model"], options=StateDictOptions(strict=False))
        whole = self._optimizer_state() | {"state": state["optimizer"]}
        set_optimizer_state_dict(self._model, self._optimizer, whole)
        self._step = step

    def _optimizer_state(self) -> dict[str, Any]:
        return dict(get_optimizer_state_dict(self._model, self._optimizer))


def without_ties(weights: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Each weight under the first of its names: GPT-2's token embedding is its output layer too."""
    names: dict[int, str] = {}
    for name, weight in weights.items():
        names.setdefault(weight.data_ptr(), name)
    return {name: weights[name] for name in names.values()}
