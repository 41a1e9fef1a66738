"""Simulations as Python sees them: times, memory, charts, traces, pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from merak.pipeline import Costs, Schedule

RECOMPUTE = Costs(forward=1, backward=2, recompute=1, activation=10, checkpoint=1, weights=100)


def seconds(kind: str, stages: int, microbatches: int, costs: Costs, recompute: bool | None = None) -> float:
    return Schedule.make(kind, stages=stages, microbatches=microbatches, recompute=recompute).simulate(costs).seconds


@pytest.mark.parametrize(("stages", "microbatches", "ratio"), [(4, 8, 1.158), (4, 16, 1.086), (8, 16, 1.122)])
def test_shifted_over_1f1b_with_recompute(stages: int, microbatches: int, ratio: float) -> None:
    plain = seconds("1f1b", stages, microbatches, RECOMPUTE, recompute=True)
    assert plain == 4 * (microbatches + stages - 1)
    shifted = seconds("shifted", stages, microbatches, RECOMPUTE)
    assert plain - shifted == stages + 2
    assert plain / shifted == pytest.approx(ratio, abs=5e-4)


def test_eager_over_1f1b_at_a_slow_boundary() -> None:
    slow = Costs(forward=1, backward=2, message=1.5)
    assert seconds("1f1b", 2, 32, Costs()) / seconds("eager", 2, 32, slow) == pytest.approx(99 / 102)
    assert seconds("1f1b", 2, 32, slow) / seconds("eager", 2, 32, slow) == pytest.approx(1.44, abs=5e-3)
    assert seconds("1f1b", 4, 32, slow) / seconds("eager", 4, 32, slow) == pytest.approx(1.605, abs=5e-4)


def test_memory_is_counted_by_rank_and_stage() -> None:
    simulation = Schedule.make("shifted", stages=4, microbatches=8).simulate(RECOMPUTE)
    assert [peak.activations for peak in simulation.peaks] == [1, 1, 1, 1]
    assert [peak.checkpoints for peak in simulation.peaks] == [4, 3, 3, 0]  # three at the shifted stage, not two
    assert [peak.bytes for peak in simulation.peaks] == [113, 112, 112, 110]
    kept = Schedule.make("interleaved", stages=4, ranks=2, microbatches=4).simulate()
    assert kept.peaks[0].activations == 5
    assert [peak.activations for peak in kept.stage_peaks] == [4, 3, 2, 1]


def test_costs_may_differ_by_stage_and_edge() -> None:
    schedule = Schedule.make("1f1b", stages=3, microbatches=2)
    costs = Costs(forward=[1, 2, 1], backward=[2, 4, 2], message={(0, 1): 5, (1, 2): 0.5}, gradient_message=0)
    simulation = schedule.simulate(costs)
    waited = next(span for span in simulation.spans(1) if span.action.kind == "WAIT_F")
    assert (waited.start, waited.end) == (0, 6)
    assert max(message.end - message.start for message in simulation.messages() if message.kind == "B") == 0
    assert simulation.bubbles[1] == pytest.approx(1 - 12 / simulation.seconds)
    assert simulation.bubble == pytest.approx(sum(simulation.bubbles) / 3)
    with pytest.raises(ValueError, match="forward: 2 values for 3 stages"):
        schedule.simulate(Costs(forward=[1, 2]))
    with pytest.raises(ValueError, match="not negative"):
        schedule.simulate(Costs(forward=-1))


def test_blocking_is_slower_and_buffers_do_not_matter_by_default() -> None:
    schedule = Schedule.make("eager", stages=4, microbatches=16)
    times = {
        name: schedule.simulate(Costs(message=1.5, **{name: True})).seconds  # type: ignore[arg-type]
        for name in ("blocking", "buffered", "shared_links")
    }
    plain = schedule.simulate(Costs(message=1.5)).seconds
    assert times["buffered"] == plain  # two receives ahead are enough
    assert times["blocking"] > plain
    assert times["shared_links"] >= plain


def test_the_chart_has_a_row_a_rank() -> None:
    simulation = Schedule.make("1f1b", stages=2, microbatches=2).simulate()
    assert simulation.chart() == "rank 0  F0 F1       B0---    B1---\nrank 1     F0 B0--- F1 B1---"
    assert simulation.chart(width=1).count("\n") == 1
    several = Schedule.make("zbv", ranks=1, microbatches=1).simulate()
    assert several.chart() == "rank 0  0F0 1F0 1I0 1W0 0I0 0W0"
    narrow = Schedule.make("gpipe", stages=3, microbatches=100).simulate().chart(60)
    assert all(len(line) <= 60 for line in narrow.splitlines())
    assert Schedule.make("gpipe", stages=1, microbatches=1).simulate(Costs(forward=0)).chart() == "rank 0"


def test_the_trace_has_what_ran(tmp_path: Path) -> None:
    simulation = Schedule.make("1f1b", stages=2, microbatches=3).simulate(Costs(message=0.5, reduction=1))
    simulation.trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert sum(event["pid"] == 0 for event in spans) == 2 * (2 * 3 + 1)
    assert sum(event["pid"] == 1 for event in spans) == 2 * 3
    assert max(event["ts"] + event["dur"] for event in spans) == pytest.approx(simulation.seconds * 1e6)
    names = {event["args"]["name"] for event in events if event["ph"] == "M"}
    assert {"rank 0", "rank 1", "rank 0 to rank 1", "rank 1 to rank 0"} <= names


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    Schedule.make("shifted", stages=3, microbatches=4).simulate(Costs(message=0.2)).picture(tmp_path / "it.png")
    assert (tmp_path / "it.png").stat().st_size > 1000
