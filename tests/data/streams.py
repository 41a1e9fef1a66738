"""Curricula of random cases, and processes that are killed in the middle of one."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from merak.data import CurriculumLoader, CurriculumSampler, Pacing


@dataclass(frozen=True)
class Case:
    """A curriculum, by a seed."""

    values: dict[str, Any]
    pacings: dict[str, Pacing]
    batch_size: int
    total_steps: int
    seed: int

    def sampler(self, rank: int = 0, world_size: int = 1) -> CurriculumSampler:
        return CurriculumSampler(
            self.values,
            self.pacings,
            batch_size=self.batch_size,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            total_steps=self.total_steps,
        )

    def loader(self, workers: int, rank: int = 0, world_size: int = 1) -> CurriculumLoader:
        return CurriculumLoader(
            range(len(self.values["a"])), self.sampler(rank, world_size), collate_fn=list, num_workers=workers
        )

    def stream(self) -> list[list[int]]:
        """All batches, drawn by one process from the first step on."""
        return [list(batch) for batch in self.sampler()]


def random_case(seed: int) -> Case:
    numbers = random.Random(seed)
    draw = np.random.default_rng(seed)
    batch = numbers.choice([12, 24])
    samples = numbers.randint(4 * batch, 400)
    steps = numbers.randint(0, 25)
    degree = numbers.choice([1, 2, 3])
    values = {"a": draw.integers(1, 20, samples).astype(np.float64), "b": draw.normal(size=samples)}
    start = float(np.sort(values["a"])[2 * batch])
    pacings = {
        "a": Pacing.root(start, 20, steps, degree=degree),
        "b": Pacing.linear(80, 100, numbers.randint(0, 30), by="percentile"),
    }
    if numbers.random() < 0.3:
        del pacings["b"]
    return Case(values, pacings, batch, numbers.randint(10, 40), numbers.randint(0, 10**6))


def run_until_killed(case: Case, world_size: int, workers: int, log: Path, numbers: random.Random) -> int:
    """Trains, in a process a rank, writing a line a batch; kills all at once at some batch. The step to go on at."""
    fork = multiprocessing.get_context("fork")
    ranks = [
        fork.Process(target=_train, args=(case, rank, world_size, workers, log.with_suffix(f".{rank}")))
        for rank in range(world_size)
    ]
    for one in ranks:
        one.start()
    after = numbers.randint(1, case.total_steps - 2)
    deadline = time.monotonic() + 120
    while min(len(read(log, rank)) for rank in range(world_size)) < after:
        assert time.monotonic() < deadline, "the processes draw no batches"
        time.sleep(0.001)
    for one in ranks:
        assert one.pid is not None
        os.killpg(one.pid, signal.SIGKILL)  # its workers too
    for one in ranks:
        one.join()
    return min(read(log, rank)[-1]["state"]["step"] for rank in range(world_size))


def read(log: Path, rank: int) -> list[dict[str, Any]]:
    """The whole lines of a rank."""
    path = log.with_suffix(f".{rank}")
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def _train(case: Case, rank: int, world_size: int, workers: int, path: Path) -> None:
    os.setpgid(0, 0)
    loader = case.loader(workers, rank, world_size)
    with path.open("w") as log:
        for batch in loader:
            log.write(json.dumps({"batch": batch, "state": loader.state_dict()}) + "\n")
            log.flush()
            time.sleep(0.002)
        time.sleep(600)  # it is to be killed, not to end


def resumed(case: Case, step: int, world_size: int, workers: int) -> Iterator[list[int]]:
    """The batches from a step on, put together of what each rank gets."""
    loaders = [case.loader(workers, rank, world_size) for rank in range(world_size)]
    for loader in loaders:
        loader.load_state_dict({**loader.state_dict(), "step": step})
    for parts in zip(*loaders, strict=True):
        yield [sample for part in parts for sample in part]
