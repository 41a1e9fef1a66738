"""The analyzer and the sampler on many samples: `python -m benchmarks.data.sampling [--samples N]`.

Writes a file of Megatron's of random tokens (Zipf's law, samples of 4 to 36 tokens), analyses it by two metrics, orders
its samples by two pacings and draws batches. Prints seconds, and the most memory that all processes together had: the
sum of their proportional set sizes, in which pages that several share count once.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from merak.data import CurriculumSampler, MegatronDataset, MegatronWriter, MetricIndex, Pacing, analyze


class Memory:
    """Bytes, the most at any of the moments when a thread looks."""

    def __init__(self) -> None:
        self.most, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.2):
            self.most = max(self.most, sum(map(proportional_bytes, (os.getpid(), *children()))))


def children() -> list[int]:
    """Processes that this one has forked."""
    found = Path(f"/proc/self/task/{os.getpid()}/children")
    return [int(pid) for pid in found.read_text().split()] if found.exists() else []


def proportional_bytes(pid: int) -> int:
    """Of a process; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def write(prefix: Path, samples: int) -> None:
    """The file, a million samples at a time."""
    random = np.random.default_rng(0)
    with MegatronWriter(prefix) as writer:
        for begin in range(0, samples, 1_000_000):
            count = min(1_000_000, samples - begin)
            lengths = random.integers(4, 37, count)
            # Evenly distributed logarithms: token k has a probability of 1 / k.
            tokens = np.exp(random.random(int(lengths.sum()), np.float32) * np.float32(np.log(50_000)))
            writer.add_many(tokens.astype(np.uint16), lengths)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--batches", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder, "tokens")
        write(prefix, options.samples)
        with Memory() as memory:
            begin, cpu = time.perf_counter(), cpu_seconds()
            index = analyze(MegatronDataset(prefix), workers=options.workers, output=Path(folder, "index"))
            analysed, analysed_cpu = time.perf_counter() - begin, cpu_seconds() - cpu
            begin = time.perf_counter()
            sampler = made_sampler(index, options.batch)
            ordered = time.perf_counter() - begin
            seconds = [timed(sampler, step) for step in range(options.batches)]
        far = made_sampler(index, options.batch)
        begun = timed(far, 25_000)
    print(f"{options.samples:,} samples, {options.workers} workers, batches of {options.batch}")
    print(f"analysed by length and rarity  {analysed:8.1f} s, {analysed_cpu:.1f} s of CPU")
    print(f"ordered by both metrics        {ordered:8.1f} s")
    print(f"a batch, median                {statistics.median(seconds) * 1e3:8.3f} ms")
    print(f"a batch, 99 of 100 below       {np.percentile(seconds, 99) * 1e3:8.3f} ms")
    print(f"beginning at step 25,000       {begun:8.2f} s")
    print(f"most memory                    {memory.most / 1e6:8.0f} MB")


def made_sampler(index: MetricIndex, batch: int) -> CurriculumSampler:
    """With the published pacings."""
    pacings = {
        "vocabulary_rarity": Pacing.root(1, 100, steps=110_000, degree=2, by="percentile"),
        "sequence_length": Pacing.linear(8, 36, steps=110_000),
    }
    return CurriculumSampler(index, pacings, batch_size=batch)


def timed(sampler: CurriculumSampler, step: int) -> float:
    """Seconds that a batch took."""
    begin = time.perf_counter()
    sampler.batch(step)
    return time.perf_counter() - begin


def cpu_seconds() -> float:
    """Of this process and those that it has waited for."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


if __name__ == "__main__":
    main()
