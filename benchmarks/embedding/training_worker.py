"""One rank of the benchmark of whole training steps; runs under torchrun, on the test bed.

    torchrun --nnodes ... -m benchmarks.embedding.training_worker SUITE_JSON

All ways live in the same processes, each with its own copy of the model, drawn from the same seed, and train on the
same batches. They take turns of some steps each, in an order that alternates. Steps of a turn follow each other as in
training, without a barrier between them. The first of a turn is not counted: what it reads was just driven out of the
caches, and a way that looks ahead has begun with it in its turn before. Nor is the first turn of each way.

The time of a step is the mean over the ranks. They wait for each other in every step, so that their times add up to the
same; the slowest rank of each step would count waiting twice. Rank 0 prints one JSON line a model and way.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from benchmarks.collectives.priority import before_others
from benchmarks.sparse.bench import SETTLE_SECONDS, Rank

from .models import MODELS, Task, emulated
from .training_ways import WAYS

TURN = 5
SEED = 1


@dataclass(frozen=True)
class Suite:
    """What to measure.

    Attributes:
        models, ways: names.
        steps: that are counted of each way, a multiple of TURN - 1.
        divisor: of the rows of tables.
        compute_ms: forward and backward, of `models/emulated.py`; None: the models compute.
        interface: by which a rank reaches other hosts.
        realtime: see `before_others`.
    """

    models: tuple[str, ...]
    ways: tuple[str, ...]
    steps: int
    divisor: int
    compute_ms: tuple[float, float] | None
    interface: str
    realtime: bool

    @property
    def turns(self) -> int:
        """Of each way, beside the first."""
        return self.steps // (TURN - 1)

    def task(self, model: str) -> Task:
        """A new one; the same whenever it is asked for."""
        torch.manual_seed(SEED)
        task = MODELS[model](self.divisor)
        return task if self.compute_ms is None else emulated.task(task, *self.compute_ms)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Suite:
        fields = json.loads(text)
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})


@dataclass
class Measured:
    """Of a way, on this rank, in all turns but its first.

    Attributes:
        seconds: of the steps that are counted.
        losses: of all steps.
        left: bytes that left the host.
    """

    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    left: int = 0


class TrainingBench(Rank):
    """Measures each model in turn."""

    def __init__(self, suite: Suite) -> None:
        super().__init__(suite.interface, ("merak", "gloo"))
        self.suite = suite

    def run(self) -> None:
        for model in self.suite.models:
            measured = self.measure(model)
            description = describe(model, self.suite, self.size)
            for way, figures in measured.items():
                self.print_record(description | {"way": way}, figures)
            gc.collect()  # models and their optimizers refer to each other

    def measure(self, model: str) -> dict[str, Measured]:
        """By way."""
        suite = self.suite
        draw = suite.task(model).draw
        batches = [draw(step, self.rank) for step in range((1 + suite.turns) * TURN)]
        runs = {way: WAYS[way](suite.task(model), self.groups).train(batches) for way in suite.ways}
        for run in runs.values():
            self.turn(run, Measured())
        figures = {way: Measured() for way in runs}
        order = list(runs)
        with before_others(suite.realtime):
            for _ in range(suite.turns):
                for way in order:
                    self.turn(runs[way], figures[way])
                order.reverse()
        for run in runs.values():
            if next(run, None) is not None:
                raise RuntimeError("a way gave more losses than it had batches")
        return figures

    def turn(self, run: Iterator[torch.Tensor], figures: Measured) -> None:
        """Trains some steps and adds their figures."""
        self.control.barrier()
        before = self.sent_bytes()
        self.control.barrier()
        gc.disable()
        times = [time.perf_counter()]
        for _ in range(TURN):
            figures.losses.append(float(next(run)))
            times.append(time.perf_counter())
        gc.enable()
        self.control.barrier()
        time.sleep(SETTLE_SECONDS)
        figures.left += self.sent_bytes() - before
        figures.seconds += np.diff(times)[1:].tolist()

    def print_record(self, description: dict[str, Any], figures: Measured) -> None:
        seconds, losses, left = (
            self.control.gather(np.array(row, np.float64)) for row in (figures.seconds, figures.losses, [figures.left])
        )
        if seconds is None or losses is None or left is None:
            return
        record = description | {
            "times": [round(second, 6) for second in seconds.mean(axis=0).tolist()],
            "left": (left[:, 0] / (self.suite.turns * TURN)).tolist(),
            "losses": losses.mean(axis=0).tolist(),
        }
        # One write: torchrun's own messages go to the same pipe.
        sys.stdout.write(json.dumps(record) + "\n")
        sys.stdout.flush()


def describe(model: str, suite: Suite, ranks: int) -> dict[str, Any]:
    """What is trained."""
    task = suite.task(model)
    return {
        "model": model,
        "emulated_compute_ms": suite.compute_ms,
        "hosts": ranks,
        "words": task.words * ranks,
        "parameters": sum(parameter.numel() for parameter in task.model.parameters()),
        "share_of_tables": round(task.share_of_tables(), 4),
    }


def main() -> None:
    torch.set_num_threads(1)
    torch.sparse.check_sparse_tensor_invariants.disable()  # said aloud, or torch warns that they are not checked
    bench = TrainingBench(Suite.from_json(sys.argv[1]))
    bench.run()
    bench.close()


if __name__ == "__main__":
    main()
