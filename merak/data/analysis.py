"""Metrics of all samples of a data set, computed by several processes, some samples at a time.

The data set is cut into *parts* of so many samples. Where tokens have to be counted first, that is a pass of its own
over all parts; then a pass computes the metrics. Each part's result is a file in the folder `parts` of the output, put
there whole or not at all: an analysis that was interrupted, called again, does what is missing. In the end the parts
are joined into the index (index.py) and removed.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from merak import _C
from merak.data.identity import identity_of
from merak.data.index import FILE, MetricIndex
from merak.data.metrics import Metrics, Numbers, OfPart, chosen, need_counts
from merak.data.samples import Part, TokensOf

PART = 65536


@dataclass
class _Job:
    """What the processes share; they are forked, so that nothing of it has to be sent to them."""

    dataset: Any
    functions: dict[str, OfPart]
    tokens: TokensOf
    folder: Path
    samples: int
    size: int
    costs: Numbers

    def path(self, kind: str, number: int) -> Path:
        return self.folder / f"{kind}-{number:06d}.npy"

    def part(self, number: int) -> Part:
        begin = number * self.size
        return Part(self.dataset, begin, min(begin + self.size, self.samples), self.tokens)

    def save(self, kind: str, number: int, numbers: Any) -> None:
        path = self.path(kind, number)
        with (temporary := path.with_suffix(".part")).open("wb") as stream:
            np.save(stream, numbers, allow_pickle=False)
        temporary.replace(path)


_job: _Job | None = None


def analyze(
    dataset: Any,
    metrics: Metrics = ("sequence_length", "vocabulary_rarity"),
    *,
    workers: int = 1,
    output: str | Path,
    tokens: TokensOf = "input_ids",
    part: int = PART,
    progress: bool = False,
) -> MetricIndex:
    """Computes metrics of all samples, and writes them as an index.

    Args:
        dataset: with `len` and `[i]`; of Hugging Face's `datasets` and `MegatronDataset` tokens are read many at a
            time.
        metrics: names (`merak.data.metrics`), or a mapping from names to those, or to functions of a sample.
        workers: processes. They are forked: user functions need not be importable.
        output: a folder, made if need be. If it has an index already, or parts of one, of the same data and metrics,
            that is gone on with.
        tokens: where a sample has its tokens: a key or column, or a function of the sample.
        part: samples of a part. Memory grows with it.
        progress: show a bar, if the package rich is there.

    Raises:
        ValueError: the data set is empty; a metric is not known, or not a number for some sample; the folder has parts
            of another analysis.
    """
    functions = chosen(metrics)
    samples = _count(dataset)
    if samples == 0:
        raise ValueError("the data set is empty: there is nothing to analyse")
    if workers < 1 or part < 1:
        raise ValueError(f"{workers} workers, parts of {part} samples: both must be 1 or more")
    output = Path(output)
    about = {"samples": samples, "metrics": list(functions), "part": part, "data": identity_of(dataset)}
    if (output / FILE).exists() and json.loads((output / FILE).read_text()).get("analysis") == about:
        return MetricIndex.load(output)
    job = _Job(dataset, functions, tokens, _folder_for(output, about), samples, part, np.empty(0))
    count = -(-samples // part)
    if need_counts(functions):
        _run(job, _count_part, "counts", count, workers, progress)
        job.costs = _C.rarity_costs(_sum_of_counts(job, count))
    _run(job, _measure_part, "metrics", count, workers, progress)
    index = MetricIndex.write(output, _joined(job, count), {"analysis": about})
    shutil.rmtree(job.folder)
    return index


def _count(dataset: Any) -> int:
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise ValueError(
            f"a {type(dataset).__name__} has no length, or no samples by number: write a stream into a file first, "
            "with datasets.Dataset.from_generator or merak.data.MegatronWriter"
        )
    return len(dataset)


def _folder_for(output: Path, about: dict[str, Any]) -> Path:
    folder = output / "parts"
    folder.mkdir(parents=True, exist_ok=True)
    description = folder / "analysis.json"
    if description.exists():
        try:
            found = json.loads(description.read_text())
        except ValueError:
            found = None
        if found != about:
            raise ValueError(f"{folder} has parts of another analysis: remove it, or choose another output. {found}")
    description.write_text(json.dumps(about))
    return folder


def _run(job: _Job, work: Callable[[int], int], kind: str, count: int, workers: int, progress: bool) -> None:
    """Does a pass over the parts whose files are missing."""
    global _job
    missing = [number for number in range(count) if not job.path(kind, number).exists()]
    if not missing:
        return
    _job = job
    try:
        with _bar(kind, count, count - len(missing), progress) as advance, _map_for(workers) as run:
            for _ in run(work, missing):
                advance()
    finally:
        _job = None


@contextmanager
def _map_for(workers: int) -> Iterator[Callable[..., Any]]:
    if workers == 1:
        yield map
        return
    if "fork" not in multiprocessing.get_all_start_methods():
        raise ValueError("several workers are forked, which this system cannot: use workers=1")
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        yield pool.imap_unordered


@contextmanager
def _bar(kind: str, total: int, done: int, progress: bool) -> Iterator[Callable[[], None]]:
    if not progress or find_spec("rich") is None:
        yield lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task({"counts": "counting tokens", "metrics": "metrics"}[kind], total=total, completed=done)
        yield partial(bar.advance, task)


def _count_part(number: int) -> int:
    assert _job is not None
    counts = _C.TokenCounts()
    counts.add(np.ascontiguousarray(_job.part(number).flat[0]))
    _job.save("counts", number, counts.counts())
    return number


def _measure_part(number: int) -> int:
    assert _job is not None
    part = _job.part(number)
    rows = []
    for name, function in _job.functions.items():
        values = function(part, _job.costs)
        if (bad := np.flatnonzero(np.isnan(values))).size:
            raise ValueError(f"metric {name!r} of sample {part.begin + int(bad[0])} is not a number (NaN)")
        rows.append(values)
    _job.save("metrics", number, np.stack(rows))
    return number


def _sum_of_counts(job: _Job, count: int) -> Any:
    total = np.zeros(0, np.int64)
    for number in range(count):
        counts = np.load(job.path("counts", number), allow_pickle=False)
        if len(counts) > len(total):
            total = np.concatenate([total, np.zeros(len(counts) - len(total), np.int64)])
        total[: len(counts)] += counts
    return total


def _joined(job: _Job, count: int) -> dict[str, Numbers]:
    values = {name: np.empty(job.samples, np.float64) for name in job.functions}
    for number in range(count):
        rows = np.load(job.path("metrics", number), allow_pickle=False)
        begin = number * job.size
        for name, row in zip(values, rows, strict=True):
            values[name][begin : begin + len(row)] = row
    return values
