"""How a step is computed: by merak's engine, data parallel and pipelined.

The plain model is captured, cut into stages that take equally long, and each rank runs its stages' share of every
micro-batch under a schedule. The loop knows this class by the methods of `loop.Engine` alone.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from common.options import UsageError
from common.world import World
from torch import nn

from .data import Batch
from .engine import learning_rate
from .options import Options

if TYPE_CHECKING:
    import merak


class PipelineEngine:
    """A model over dp x pp ranks. Each replica gets its slice of the global batch; losses are of the whole.

    Args:
        example: a global batch as the loop will give it.
    """

    def __init__(self, model: nn.Module, options: Options, world: World, example: Batch) -> None:
        import merak

        self._options, self._why = options, ""
        if options.plan == "auto" and world.size > 1:
            found = merak.plan(model, example, rows=options.global_batch)
            self._why, plan = found.explain(), dataclasses.replace(found.plan, seed=options.seed)
        else:
            plan = given_plan(options, world)
        self.replicas = plan.dp
        example = {name: rows[: options.global_batch // plan.dp] for name, rows in example.items()}
        self._engine = merak.parallelize(model, plan, example, optimizer=self._optimizer, clip=options.clip)
        _begin(self._engine.optimizer)
        self.replica = self._engine.dp_rank

    def explain(self) -> str:
        """The plan, why it was found, and a chart of its schedule."""
        return "\n\n".join([*([self._why] if self._why else []), self._engine.explain()])

    def train_step(self, batch: Batch) -> float:
        """Forward, backward, clipping and the optimizer's step; the mean loss over the global batch before the step."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate(self._engine.steps, self._options)
        return self._engine.train_step(batch)

    def eval_step(self, batch: Batch) -> float:
        """The mean loss per target of the global batch, ignored targets left out; nothing is learnt."""
        loss = self._engine.eval_step(batch, output=False).loss
        assert loss is not None
        return loss

    def state(self) -> dict[str, Any]:
        """Weights and AdamW's moments of this rank's stages, by parameter name."""
        return self._engine.state_dict()

    def load_state(self, state: dict[str, Any], step: int) -> None:
        """Goes on after `step` steps; the tensors that `state()` gave have been filled already."""
        self._engine.steps = step

    def _optimizer(self, named_parameters: list[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
        """AdamW that decays matrices and leaves vectors (biases, layer norms) alone."""
        matrices = [parameter for _, parameter in named_parameters if parameter.dim() >= 2]
        vectors = [parameter for _, parameter in named_parameters if parameter.dim() < 2]
        decay = self._options.weight_decay
        groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self._options.learning_rate, betas=(0.9, 0.95), fused=True)


def _begin(optimizer: torch.optim.Optimizer) -> None:
    """Makes AdamW's moments, as they are before its first step: checkpoints are read into tensors that are there."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": torch.zeros(()), **moments}


def given_plan(options: Options, world: World) -> merak.Plan:
    """That of the options.

    Raises:
        UsageError: the ranks, or the micro-batches, do not divide evenly.
    """
    import merak

    pp, replicas = shape(options, world)
    return merak.Plan(
        dp=replicas,
        pp=pp,
        microbatches=options.microbatches // replicas,
        schedule=options.schedule,
        recompute=options.recompute,
        seed=options.seed,
    )


def shape(options: Options, world: World) -> tuple[int, int]:
    """Over how many ranks the stages are divided, and how many replicas that makes.

    Raises:
        UsageError: the ranks, or the micro-batches, do not divide evenly.
    """
    pp = options.pp or (2 if world.size % 2 == 0 else 1)
    if world.size % pp:
        raise UsageError(f"--pp {pp} does not divide the {world.size} ranks.")
    replicas = world.size // pp
    world.share(options.global_batch, "--global-batch", 0, replicas)
    if options.microbatches % replicas or options.microbatches > options.global_batch:
        raise UsageError(
            f"--microbatches {options.microbatches} must be a multiple of the {replicas} replicas, and at most "
            f"--global-batch, which is {options.global_batch}."
        )
    return pp, replicas
