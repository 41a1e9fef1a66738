"""Pacings and schedules by tables."""

from __future__ import annotations

import pytest

from merak.data import KeepSchedule, Pacing


@pytest.mark.parametrize(
    ("pacing", "expected"),
    [
        (Pacing.linear(2, 10, 4), [2, 4, 6, 8, 10, 10]),
        (Pacing.linear(80, 128, 6, quantum=16), [80, 80, 96, 96, 112, 112, 128]),
        (Pacing.linear(10, 100, 4, quantum=16), [10, 32, 48, 64, 100]),  # never below the start
        (Pacing.root(1, 101, 4, degree=2), [1, 51, 71, 87, 101]),
        (Pacing.root(0, 8, 8, degree=3, quantum=0), [0, 4, 8 * 0.25 ** (1 / 3)]),
        (Pacing.discrete([1, 5, 9], [2, 3]), [1, 1, 5, 9, 9]),
        (Pacing.function(lambda step: step * step, 3), [0, 1, 4, 9, 9]),
        (Pacing.linear(3, 7, 0), [7, 7]),
    ],
    ids=lambda one: one.description if isinstance(one, Pacing) else "",
)
def test_difficulties(pacing: Pacing, expected: list[float]) -> None:
    assert [pacing(step) for step in range(len(expected))] == pytest.approx(expected)
    assert list(pacing.table()) == [pacing(step) for step in range(pacing.steps + 1)]


def test_what_a_function_admitted_stays_so() -> None:
    assert list(Pacing.function(lambda step: [3, 1, 5][step], 2).table()) == [3, 3, 5]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (KeepSchedule(start=4, steps=4, quantum=2), {0: 4, 1: 6, 2: 10, 3: 12, 4: 16, 9: 16}),
        (KeepSchedule(start=3, steps=4, end=8, quantum=4), {0: 3, 1: 4, 2: 4, 3: 4, 4: 8, 5: 8}),
        (KeepSchedule.constant(5), {0: 5, 100: 5}),
        (KeepSchedule(start=100, steps=4), {0: 16, 3: 16}),  # of 16 tokens
    ],
)
def test_kept_tokens_of_16(schedule: KeepSchedule, expected: dict[int, int]) -> None:
    assert {step: schedule.kept(step, 16) for step in expected} == expected


def test_bad_input() -> None:
    for make, words in (
        (lambda: Pacing.linear(3, 2, 5), "must not be above the end"),
        (lambda: Pacing.linear(1, float("nan"), 5), "must not be above the end"),
        (lambda: Pacing.root(1, 2, 5, degree=0), "degree must be above 0"),
        (lambda: Pacing.linear(1, 2, -1), "needs 0 or more"),
        (lambda: Pacing.linear(1, 2, 5, by="rank"), "'value' or 'percentile'"),
        (lambda: Pacing.discrete([1, 2], [1, 2]), "the last one lasts"),
        (lambda: Pacing.discrete([2, 1], [1]), "must ascend"),
        (lambda: Pacing.function(lambda step: float("nan"), 3).table(), "not a number"),
        (lambda: KeepSchedule(start=0, steps=1), "needs 1 or more"),
        (lambda: KeepSchedule(start=4, steps=1, end=3), "must not fall"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
