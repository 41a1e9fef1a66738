"""Curriculum sampling: which samples, in which batch, on which rank; going on after kill -9."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from merak.data import CurriculumLoader, CurriculumSampler, MetricIndex, Pacing, TruncateLength
from tests.data.streams import Case, random_case, read, resumed, run_until_killed


def slowly_admitted(case: Case, step: int) -> set[int]:
    """Samples that all metrics admit, said sample by sample."""
    admitted = set(range(len(case.values["a"])))
    for name, pacing in case.pacings.items():
        assert pacing.by == "value"
        admitted = {sample for sample in admitted if case.values[name][sample] <= pacing(step)}
    return admitted


@pytest.mark.parametrize("seed", range(20))
def test_batches_are_of_admitted_samples_each_once_a_pass(seed: int) -> None:
    case = random_case(seed)
    case.pacings.pop("b", None)
    drawn: set[int] = set()
    epoch = 0
    sampler = case.sampler()
    for step, batch in enumerate(sampler):
        admitted = slowly_admitted(case, step)
        if len(admitted) - len(drawn) < case.batch_size:
            drawn, epoch = set(), epoch + 1
        assert set(batch) <= admitted - drawn
        assert len(set(batch)) == case.batch_size
        drawn |= set(batch)
        assert batch.state.step == step
        assert batch.state.admitted == len(admitted) == sampler.admitted(step)
        assert batch.state.epoch == epoch
        assert batch.state.difficulties == {"a": case.pacings["a"](step)}
        assert batch.state.sequences == step * case.batch_size


def test_percentiles_admit_as_large_a_part_of_the_samples() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    pacing = Pacing.linear(10, 100, 9, by="percentile")
    sampler = CurriculumSampler({"m": values}, {"m": pacing}, batch_size=10)
    hardest = np.sort(values)
    for step in range(10):
        assert sampler.admitted(step) == 100 * (step + 1)
        assert values[list(sampler.batch(step))].max() <= hardest[100 * (step + 1) - 1]


def test_of_several_metrics_the_last_one_admits() -> None:
    case = random_case(4)
    case.pacings["b"] = Pacing.linear(80, 100, 5, by="percentile")
    both = case.sampler()
    order = np.argsort(case.values["b"])
    for step in range(30):
        few = set(order[: int(case.pacings["b"](step) / 100 * len(order))].tolist())
        admitted = {s for s in few if case.values["a"][s] <= case.pacings["a"](step)}
        assert both.admitted(step) == len(admitted)
        assert set(both.batch(step)) <= admitted


@pytest.mark.parametrize("seed", range(10))
def test_the_same_stream_for_any_number_of_ranks(seed: int) -> None:
    case = random_case(seed)
    stream = case.stream()
    for world_size in (2, 3, 6):
        parts = [list(case.sampler(rank, world_size)) for rank in range(world_size)]
        together = [[s for part in step for s in part] for step in zip(*parts, strict=True)]
        assert together == stream, f"seed {seed}, {world_size} ranks"


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(s, marks=pytest.mark.slow) for s in range(4, 200))])
def test_goes_on_after_kill_9_on_other_ranks_and_workers(seed: int, tmp_path: Path) -> None:
    numbers = random.Random(seed)
    case, log = random_case(seed), tmp_path / "log"
    world_size, workers = numbers.choice([1, 2, 3]), numbers.choice([0, 0, 1, 2])
    step = run_until_killed(case, world_size, workers, log, numbers)
    stream = case.stream()
    for rank in range(world_size):
        share = case.batch_size // world_size
        for at, line in enumerate(read(log, rank)):
            assert line["batch"] == stream[at][rank * share : (rank + 1) * share], f"seed {seed}"
            assert line["state"]["step"] == at + 1
    others = numbers.choice([n for n in (1, 2, 3, 4) if n != world_size])
    assert list(resumed(case, step, others, numbers.choice([0, 0, 1]))) == stream[step:], f"seed {seed}"


@pytest.mark.parametrize("workers", [0, 2])
def test_state_and_difficulty_travel_with_the_batch(workers: int) -> None:
    data = [{"input_ids": torch.full((16,), i)} for i in range(64)]
    sampler = CurriculumSampler(samples=64, batch_size=4, total_steps=12)
    length = TruncateLength(Pacing.linear(2, 13, 11))
    loader = CurriculumLoader(data, sampler, transform=length, num_workers=workers)
    for step, batch in enumerate(loader):
        assert batch["input_ids"].shape == (4, 2 + step)
        assert batch["input_ids"][:, 0].tolist() == list(CurriculumSampler(samples=64, batch_size=4).batch(step))
        assert loader.state is not None
        assert loader.state.step == step
        assert loader.state_dict()["step"] == step + 1
        if step == 5:
            break
    assert len(loader) == 6
    assert [loader.state.step for _ in loader if loader.state] == list(range(6, 12))


def test_torch_s_own_loader_takes_it() -> None:
    sampler = CurriculumSampler(samples=40, batch_size=8, total_steps=5)
    batches = list(torch.utils.data.DataLoader(range(40), batch_sampler=sampler, collate_fn=list))
    assert len(batches) == 5
    assert sorted(sample for batch in batches for sample in batch) == list(range(40))
    assert len(sampler) == 0


def test_bad_input(tmp_path: Path) -> None:
    values = np.arange(10.0)
    pacing = Pacing.linear(4, 9, 5)

    def make(**changed: object) -> CurriculumSampler:
        options = {"metrics": {"m": values}, "pacings": {"m": pacing}, "batch_size": 4, **changed}
        return CurriculumSampler(**options)  # type: ignore[arg-type]

    with_nan = values.copy()
    with_nan[3] = np.nan
    for changed, words in (
        ({"metrics": {"m": np.empty(0)}}, "data set is empty"),
        ({"metrics": None, "pacings": None}, "say how many samples"),
        ({"metrics": None}, "no metrics are given"),
        ({"metrics": {"m": with_nan}}, "metric 'm' of sample 3 is not a number"),
        ({"pacings": {"m": Pacing.linear(-5, 9, 5)}}, r"first step admits 0 samples.*m up to -5 by value"),
        ({"batch_size": 6}, "admits 5 samples, a batch has 6"),
        ({"batch_size": 0}, "batch of 0"),
        ({"rank": 2, "world_size": 2}, "rank 2 of 2"),
        ({"world_size": 3}, "cannot be divided among 3 ranks"),
        ({"pacings": {"n": pacing}}, "a pacing of 'n'; the metrics are m"),
        ({"samples": 11}, "different numbers of samples"),
        ({"seed": -1}, "seed is -1"),
        ({"metrics": tmp_path}, "has no index.json"),
    ):
        with pytest.raises(ValueError, match=words):
            make(**changed)
    with pytest.raises(ValueError, match="the state has seed 7"):
        make().load_state_dict({"seed": 7, "step": 3})
    with pytest.raises(ValueError, match="the data set has 5 samples, the sampler 10"):
        CurriculumLoader(range(5), make())
    with pytest.raises(TypeError, match="no length"):
        len(make())
    assert make(pacings={"m": Pacing.linear(4, 7, 5)}).never_admitted == 2
    MetricIndex.write(tmp_path, {"m": values}, {})
    assert list(make(metrics=tmp_path).batch(3)) == list(make().batch(3))
