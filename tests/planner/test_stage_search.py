"""Stages on shapes of devices, as Python asks for them; that they are the best is shown by stage_search_test.cpp."""

from __future__ import annotations

import dataclasses
import random

import pytest

from merak.graph.cutting import GraphCosts, NodeCost, Value, cut
from merak.planner.stage_search import StagesDoNotFitError, StageShape, search_stages


def chain(nodes: int, width: int = 1, saved_bytes: float = 16) -> GraphCosts:
    """Equal nodes: 12 seconds of work, a parameter of 4 bytes, a value of 2 bytes to the next; shared by `width`."""
    node = NodeCost(4 / width, 4 / width, 4 / width, saved_bytes / width)
    return GraphCosts(
        nodes=tuple(dataclasses.replace(node, parameters=(i,)) for i in range(nodes)),
        values=tuple(Value(i, (i + 1,), 2) for i in range(nodes - 1)),
        parameter_bytes=(4 / width,) * nodes,
        may_cut=(True,) * nodes,
    )


def shapes(nodes: int, *widths: int, **conditions: float) -> list[StageShape]:
    return [StageShape(width, chain(nodes, width), **conditions) for width in widths]  # type: ignore[arg-type]


def random_costs(seed: int) -> GraphCosts:
    numbers = random.Random(seed)
    count = numbers.randint(8, 14)
    return GraphCosts(
        nodes=tuple(
            NodeCost(*(numbers.uniform(1, 5) for _ in range(3)), numbers.uniform(5, 20), (i,), 0.0, False)
            for i in range(count)
        ),
        values=tuple(
            Value(i, tuple(sorted({i + 1, numbers.randint(i + 1, count - 1)})), numbers.uniform(1, 9))
            for i in range(count - 1)
        ),
        parameter_bytes=tuple(numbers.uniform(1, 9) for _ in range(count)),
        may_cut=tuple(numbers.random() < 0.8 for _ in range(count)),
    )


@pytest.mark.parametrize("seed", range(30))
def test_is_the_cut_of_equal_devices_where_there_is_one_shape(seed: int) -> None:
    costs, stages = random_costs(seed), 2 + seed % 3
    conditions = {"micro_batches": 1 + seed, "hides_communication": seed % 2 == 0}
    roomy = cut(costs, stages, latency=0.5, bandwidth=4, **conditions)  # type: ignore[arg-type]
    memory = (0.6 + 0.1 * (seed % 5)) * max(roomy.memory_bytes)
    shape = StageShape(1, costs, memory=memory, latency=0.5, bandwidth=4)
    try:
        expected = cut(costs, stages, memory=memory, latency=0.5, bandwidth=4, **conditions)  # type: ignore[arg-type]
    except ValueError as error:
        with pytest.raises(StagesDoNotFitError) as raised:
            search_stages([shape], stages, **conditions)  # type: ignore[arg-type]
        missing = error.cut.missing_bytes  # type: ignore[attr-defined]
        assert max(stage.missing_bytes for stage in raised.value.stages.stages) == pytest.approx(max(missing))
        return
    (found,) = search_stages([shape], stages, **conditions).found  # type: ignore[arg-type]
    assert found.step_s == pytest.approx(expected.step_s, rel=1e-9)
    assert found.bottleneck_s == pytest.approx(max(expected.period_s), rel=1e-9)
    assert sum(stage.cost.crossing_bytes for stage in found.stages) == pytest.approx(
        sum(stage.crossing_bytes for stage in expected.stages)
    )


def test_finds_the_best_for_each_number_of_stages() -> None:
    result = search_stages(shapes(4, 1, 2), 4, micro_batches=8)
    assert [(len(one.stages), one.step_s) for one in result.found] == [(2, 24 + 7 * 12), (3, 36 + 7 * 12), (4, 132)]
    assert result.best.boundaries == (2,)
    assert result.best.shapes == (1, 1)
    assert [(one.first_device, one.devices) for one in result.best.stages] == [(0, 2), (2, 2)]
    assert result.bound_s == pytest.approx(result.best.step_s)
    assert 0 <= result.gap < 1e-8
    assert result.trials > 0


def test_says_how_far_it_may_be_from_the_best() -> None:
    exact = search_stages(shapes(40, 1, 2, 4), 16, micro_batches=16)
    roughly = search_stages(shapes(40, 1, 2, 4), 16, micro_batches=16, tolerance=0.1)
    assert roughly.trials < exact.trials
    assert roughly.bound_s <= exact.best.step_s <= roughly.best.step_s
    assert 0 < roughly.gap <= 0.1 + 1e-6
    few = search_stages(shapes(40, 1, 2, 4), 16, micro_batches=16, within=0.05)
    assert 0 < len(few.found) < len(exact.found)
    assert few.best.step_s == pytest.approx(exact.best.step_s)


@pytest.mark.parametrize("seed", range(20))
def test_leaves_out_what_takes_longer_than_is_of_interest(seed: int) -> None:
    given = [StageShape(1, random_costs(seed)), StageShape(2, random_costs(seed))]
    m = 1 + seed % 4
    whole = search_stages(given, 6, micro_batches=m).found
    for most_s in (0.9 * whole[0].step_s, 1.0001 * whole[0].step_s, 1.1 * whole[0].step_s, 10 * whole[0].step_s):
        result = search_stages(given, 6, micro_batches=m, most_s=most_s, diagnose=False)
        expected = [one.step_s for one in whole if one.step_s <= most_s]
        assert [one.step_s for one in result.found] == pytest.approx(expected)
        assert min(most_s, whole[0].step_s) * (1 - 1e-6) <= result.bound_s <= whole[0].step_s * (1 + 1e-9)


def test_keeps_to_what_is_given() -> None:
    given = shapes(8, 1, 2)
    assert search_stages(given, 4, micro_batches=8, stages=3).best.boundaries in {(2, 4), (4, 6), (2, 6)}
    pinned = search_stages(given, 4, micro_batches=8, stages=3, shape_of_stage=[None, 1, None], boundaries=[3])
    assert pinned.best.shapes == (0, 1, 0)
    assert 3 in pinned.best.boundaries
    elsewhere = [given[0], dataclasses.replace(given[1], may_begin=(False, True, False, False, False))]
    assert search_stages(elsewhere, 4, stages=3).best.shapes == (0, 1, 0)


def test_what_happens_once_a_step_is_shared_by_micro_batches() -> None:
    (found,) = search_stages(shapes(2, 2, once_s_per_byte=0.5), 2, micro_batches=4).found
    assert found.stages[0].once_s == 0.5 * 2 * 2
    assert found.step_s == 4 * (12 + 0.5)


def test_recomputes_as_memory_asks() -> None:
    memory = 4 * 4 * 4 + 4 * 16 + 3 * 16 + 2 * 2  # of the first of two stages, with one of its four nodes recomputed
    found = search_stages(shapes(8, 1, memory=memory), 2, micro_batches=2, boundaries=[4]).best
    assert found.recomputed == (1, 0)
    assert found.stages[0].cost.memory_bytes <= memory
    everything = search_stages(shapes(8, 1), 2, micro_batches=2, boundaries=[4], recompute="all").best
    assert everything.recomputed == (4, 4)
    eager = search_stages(shapes(8, 1, memory=memory), 2, micro_batches=4, boundaries=[4], in_flight=[1, (1, 2)]).best
    assert eager.recomputed == (3, 0)


def test_says_what_would_fit() -> None:
    with pytest.raises(StagesDoNotFitError) as raised:
        search_stages(shapes(8, 1, memory=4 * 4 * 4 + 80), 2, micro_batches=2, recompute="none")
    text = str(raised.value)
    assert "2 stages: stage 1 (nodes 3-7 on device 1) misses 18 B of 162 B" in text
    assert 'with recompute="auto"' in text
    assert "at most 1 micro-batch in flight" in text
    assert any(stage.missing_bytes for stage in raised.value.stages.stages)
    with pytest.raises(StagesDoNotFitError, match=r"1 stage: stage 0 \(nodes 0-7 on devices 0-1\).*with 2 stages"):
        search_stages([*shapes(8, 1), *shapes(8, 2, memory=9)], 2, stages=1)


def test_names_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="take all 3 devices"):
        search_stages(shapes(8, 2), 3)
    with pytest.raises(ValueError, match="no way to recompute called 'often'"):
        search_stages(shapes(8, 1), 2, recompute="often")
    with pytest.raises(ValueError, match="shape 1 has other nodes"):
        search_stages([*shapes(8, 1), *shapes(9, 1)], 2)
    with pytest.raises(ValueError, match="shape 0 takes 4 of 2 devices"):
        search_stages(shapes(8, 4), 2)
    with pytest.raises(ValueError, match="boundary before node 8 is not allowed"):
        search_stages([StageShape(1, dataclasses.replace(chain(9), may_cut=(True,) * 8 + (False,)))], 2, boundaries=[8])
    with pytest.raises(ValueError, match="shapes are given for 1 stages of 0"):
        search_stages(shapes(8, 1), 2, shape_of_stage=[0])
    with pytest.raises(ValueError, match="0 stages"):
        search_stages(shapes(8, 1), 2, stages=0)
    with pytest.raises(ValueError, match="none is given"):
        search_stages([], 2)
