"""Schedules as Python sees them."""

from __future__ import annotations

from pathlib import Path

import pytest

from merak.pipeline import KINDS, Action, Schedule


def text(schedule: Schedule, rank: int) -> str:
    return " ".join(f"{a.stage}{a.kind}{a.microbatch}" for a in schedule.actions(rank))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_right_by_default(kind: str) -> None:
    for ranks in (1, 2, 4):
        schedule = Schedule.make(kind, ranks=ranks, microbatches=6)
        schedule.check()
        assert (schedule.n_ranks, schedule.n_microbatches) == (ranks, 6)
        assert schedule.n_stages == (2 * ranks if kind == "zbv" else ranks)
        assert all(rank == schedule.stage_to_rank[s] for rank in range(ranks) for s in schedule.stages_of(rank))
        kinds = {action.kind for rank in range(ranks) for action in schedule.actions(rank)}
        assert "REDUCE_GRAD" in kinds
        assert ("R" in kinds) == (kind == "shifted" and ranks > 1)


@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_in_flight_are_those_between_forward_and_backward(kind: str) -> None:
    for ranks, microbatches in ((1, 3), (2, 8), (4, 6), (3, 9)):
        schedule = Schedule.make(kind, ranks=ranks, microbatches=microbatches)
        most = [0] * schedule.n_stages
        for rank in range(ranks):
            actions = schedule.actions(rank)
            for end in range(len(actions)):
                begun, ended = ([a.stage for a in actions[:end] if a.kind in kinds] for kinds in ("F", ("B", "W")))
                for stage in schedule.stages_of(rank):
                    if not schedule.checkpointed(stage, 0):
                        most[stage] = max(most[stage], begun.count(stage) - ended.count(stage))
        alive = [stage for stage in range(schedule.n_stages) if not schedule.checkpointed(stage, 0)]
        assert [schedule.in_flight[stage] for stage in alive] == [most[stage] for stage in alive]


def test_actions_say_who_is_at_the_other_end() -> None:
    schedule = Schedule.make("1f1b", stages=2, microbatches=1, receives_ahead=0)
    assert schedule.actions(0) == [
        Action(0, "F", 0),
        Action(0, "SEND_F", 0, 1),
        Action(0, "RECV_B", 0, 1),
        Action(0, "WAIT_B", 0, 1),
        Action(0, "B", 0),
        Action(0, "REDUCE_GRAD"),
    ]
    assert schedule.actions(1)[:3] == [Action(1, "RECV_F", 0, 0), Action(1, "WAIT_F", 0, 0), Action(1, "F", 0)]
    assert schedule.actions(1)[4] == Action(1, "SEND_B", 0, 0)


def test_values_go_straight_to_who_needs_them() -> None:
    edges = [(0, 1), (1, 2), (2, 3), (0, 3), (1, 3, False)]
    schedule = Schedule.make("1f1b", stages=4, microbatches=4, edges=edges)
    schedule.check()
    sends = [(a.kind, a.peer) for a in schedule.actions(1) if a.kind.startswith("SEND") and a.microbatch == 2]
    assert sends == [("SEND_F", 2), ("SEND_F", 3), ("SEND_B", 0)]
    assert schedule.edges == [(0, 1, True), (0, 3, True), (1, 2, True), (1, 3, False), (2, 3, True)]


@pytest.mark.parametrize("stages", [{0, 2}, [True, False, True], frozenset({2, 0}), (0, 2)])
def test_stages_that_recompute_are_named_or_flagged(stages: set[int]) -> None:
    schedule = Schedule.make("1f1b", stages=3, microbatches=4, recompute=stages)
    assert [schedule.checkpointed(stage, 1) for stage in range(3)] == [True, False, True]
    plain = Schedule.make("1f1b", stages=3, microbatches=4, communication=False, reduction=False)
    assert plain.with_recompute(stages).with_communication().with_reduction() == schedule


def test_shifted_recomputes_before_it_waits_and_not_on_the_last_stage() -> None:
    schedule = Schedule.make("shifted", stages=3, microbatches=4)
    assert "1R3 1WAIT_B3 1B3" in text(schedule, 1)
    assert [schedule.checkpointed(stage, 0) for stage in range(3)] == [True, True, False]
    late = Schedule.make("1f1b", stages=3, microbatches=4, recompute=True)
    assert "1WAIT_B3 1R3 1B3" in text(late, 1)
    assert "1R3 1WAIT_B3 1B3" in text(late.with_pre_recompute(), 1)
    kept = Schedule.make("shifted", stages=3, microbatches=4, recompute=False)
    assert all(action.kind != "R" for rank in range(3) for action in kept.actions(rank))


def test_wrong_wishes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"there is no schedule 'best'; there are gpipe, 1f1b"):
        Schedule.make("best", stages=2, microbatches=4)
    with pytest.raises(ValueError, match=r"1f1b has 1 stage a rank, so 2 for 2 ranks, not 4; interleaved"):
        Schedule.make("1f1b", stages=4, ranks=2, microbatches=4)
    with pytest.raises(ValueError, match="no multiple of"):
        Schedule.make("interleaved", stages=5, ranks=2, microbatches=4)
    with pytest.raises(ValueError, match="micro-batches: 0"):
        Schedule.make("gpipe", stages=2, microbatches=0)
    with pytest.raises(ValueError, match=r"recompute: \[7\] are no stages of 2"):
        Schedule.make("gpipe", stages=2, microbatches=2, recompute={7})
    with pytest.raises(ValueError, match="recompute is said of 3 stages"):
        Schedule.make("gpipe", stages=2, microbatches=2, recompute=[True, True, False])
    with pytest.raises(ValueError, match="an edge from stage 1 to stage 0"):
        Schedule.make("gpipe", stages=2, microbatches=2, edges=[(1, 0)])
    with pytest.raises(ValueError, match="rank 5 of 2"):
        Schedule.make("gpipe", stages=2, microbatches=2).actions(5)
    with pytest.raises(ValueError, match="no stage 2"):
        Schedule.make("gpipe", stages=2, microbatches=2).checkpointed(2, 0)


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    path = tmp_path / "order.csv"
    path.write_text("0F0,0B0,0F1,0B1\n1F1,1B1,1F0,1B0\n")
    schedule = Schedule.from_csv(path)
    assert len(schedule.problems()) == 2
    with pytest.raises(ValueError, match="rank 0, position 1, 0B0: it waits for ever"):
        schedule.check()
    with pytest.raises(ValueError, match="rank 1, position 0, 1F1: it waits for ever"):
        schedule.simulate()


def test_schedules_are_equal_if_their_actions_are() -> None:
    make = Schedule.make
    assert make("gpipe", stages=2, microbatches=2) == make("gpipe", stages=2, microbatches=2)
    assert make("gpipe", stages=2, microbatches=2) != make("gpipe", stages=2, microbatches=3)
    assert repr(make("zbv", ranks=2, microbatches=3)) == "Schedule(4 stages, 2 ranks, 3 microbatches)"
