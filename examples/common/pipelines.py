"""What the short examples of `merak.parallelize` share: their options, a plan for the ranks that there are, batches.

A step's *global batch* is drawn from the seed and the step alone, on every rank; each replica trains on its part of it.
One process and four therefore train on the same rows in the same steps, and have the same losses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch

from .options import UsageError, check_least, habit, option, parse
from .program import check_extras, exit_status
from .seeds import mix
from .world import World, join

if TYPE_CHECKING:
    from merak.engine import Engine, Plan

Batch = dict[str, torch.Tensor]  # what `model(**batch)` takes; the first dimension of each is the rows


@dataclass(frozen=True)
class Options:
    """Every option, with its default."""

    steps: int = option(300, "optimizer steps")
    global_batch: int = option(64, "rows in a step over all replicas")
    microbatches: int = option(8, "parts that the global batch is cut into, over all replicas")
    layers: int = option(4, "of a transformer; encoder and decoder together have as many")
    width: int = option(64, "numbers in a hidden state, or channels of an image; a multiple of 8")
    learning_rate: float = option(4e-3, "of AdamW, the largest")
    seed: int = option(0, "of weights and batches")
    pp: int = habit(0, "ranks that the stages are divided among; 0: what suits the example and divides the ranks")
    log_every: int = habit(20, "steps between lines")

    def __post_init__(self) -> None:
        check_least(self, {"steps": 1, "microbatches": 1, "layers": 2, "pp": 0, "seed": 0, "log_every": 1})
        if self.width % 8 or self.width < 8:
            raise UsageError(f"--width is {self.width}; it must be a multiple of 8.")
        if self.global_batch < self.microbatches:
            raise UsageError(f"--global-batch {self.global_batch} has too few rows for --microbatches.")


def make_plan(options: Options, world: World, pp: int, **more: Any) -> Plan:
    """`pp` pipeline ranks, or as many of them as divide the ranks, or `--pp`; the rest makes replicas.

    Args:
        more: further arguments of `merak.Plan`.

    Raises:
        UsageError: the ranks, or the micro-batches, do not divide evenly.
    """
    import merak

    pp = options.pp or math.gcd(world.size, pp)
    if world.size % pp:
        raise UsageError(f"--pp {pp} does not divide the {world.size} ranks.")
    replicas = world.size // pp
    if options.microbatches % replicas:
        raise UsageError(f"--microbatches {options.microbatches} is not a multiple of the {replicas} replicas.")
    return merak.Plan(dp=replicas, pp=pp, microbatches=options.microbatches // replicas, seed=options.seed, **more)


def draw(options: Options, step: int, rows: int) -> tuple[torch.Tensor, torch.Generator]:
    """Which of so many rows a step trains on, int64 [global batch], and what else it may draw from."""
    random = torch.Generator().manual_seed(mix(options.seed, step))
    return torch.randint(rows, (options.global_batch,), generator=random), random


def part(batch: Batch, index: int, parts: int) -> Batch:
    """One of so many equal parts, in order; their rows differ by one where they have to."""
    return {name: rows.tensor_split(parts)[index] for name, rows in batch.items()}


def mine(batch: Batch, engine: Engine) -> Batch:
    """This replica's part of a global batch."""
    return part(batch, engine.dp_rank, engine.dp_size)


def learning_rates(engine: Engine, options: Options) -> torch.optim.lr_scheduler.LRScheduler:
    """A rate that rises to `--learning-rate` in a third of the steps, and falls to almost nothing in the rest."""
    peak = options.learning_rate
    return torch.optim.lr_scheduler.OneCycleLR(engine.optimizer, peak, options.steps + 1, cycle_momentum=False)


def train_steps(engine: Engine, options: Options, world: World, batch: Callable[[int], Batch]) -> None:
    """Trains on the global batch of each step, and prints losses on the way."""
    rates = learning_rates(engine, options)
    for step in range(1, options.steps + 1):
        loss = engine.train_step(mine(batch(step), engine))
        rates.step()
        if step % options.log_every == 0 or step == 1:
            world.say(f"step {step}: loss {loss:.5f}")


def skips(engine: Engine) -> str:
    """Which stages send something past their neighbours; `engine.explain` says what."""
    far = [f"{producer} to {consumer}" for producer, consumer, _ in engine.schedule.edges if consumer > producer + 1]
    return f"skipping the stages in between: {', '.join(far) or 'nothing'}"


def run(
    description: str,
    work: Callable[[Options, World], None],
    arguments: Sequence[str] | None,
    **extras: str,
) -> int:
    """Reads the command line, joins the ranks and does the work; the exit status.

    Args:
        description: an example's docstring, whose first line is shown by `--help`.
        arguments: the process's own when None.
        extras: the optional packages that it needs, and by which extra of merak they come.
    """

    def job() -> None:
        options = parse(description.partition("\n")[0], Options, arguments)
        check_extras(**extras)
        torch.set_num_threads(1)
        with join("merak", timedelta(minutes=5)) as world:
            work(options, world)

    return exit_status(job, "interrupted")
