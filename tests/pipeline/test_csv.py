"""Schedules as torch reads and writes them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.pipelining import schedules

from merak.pipeline import KINDS, Schedule
from tests.pipeline.torch_orders import Stage, computing, torch_runtime

MULTI = [
    (schedules.ScheduleInterleaved1F1B, 2),
    (schedules.ScheduleLoopedBFS, 2),
    (schedules.ScheduleInterleavedZeroBubble, 2),
    (schedules.ScheduleZBVZeroBubble, 2),
    (schedules.ScheduleDualPipeV, 2),
]


def bare_runtime(ranks: int, n_stages: int, microbatches: int) -> Any:
    stages = [Stage(index, n_stages, ranks) for index in range(0, n_stages, ranks)]
    return schedules._PipelineScheduleRuntime(stages, microbatches)  # type: ignore[arg-type]


def cells(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return [[cell for cell in row if cell] for row in csv.reader(file)]


def kept(path: Path) -> list[list[str]]:
    """Without what merak has not, or puts elsewhere."""
    dropped = ("UNSHARD", "RESHARD", "WAIT_SEND", "WAIT_REDUCE")
    return [[cell for cell in row if not any(kind in cell for kind in dropped)] for row in cells(path)]


@pytest.mark.parametrize(("cls", "of_rank"), MULTI, ids=[cls.__name__ for cls, _ in MULTI])
@pytest.mark.parametrize("form", ["compute_only", "compute_comms"])
def test_what_torch_writes_is_read_and_right(cls: Any, of_rank: int, form: str, tmp_path: Path) -> None:
    path = tmp_path / "torch.csv"
    torch_runtime(cls, 3, of_rank, 12)._dump_csv(path, format=form)
    schedule = Schedule.from_csv(path)
    schedule.check()
    assert schedule.communicates == (form == "compute_comms")
    assert schedule.simulate().seconds > 0
    again = tmp_path / "again.csv"
    schedule.to_torch_csv(again, communication=form == "compute_comms")
    if form == "compute_only":
        assert cells(again) == cells(path)
    else:
        assert any("UNSHARD" in note for note in schedule.notes)
        assert kept(again) == kept(path)


def test_pairs_that_overlap_survive_communication(tmp_path: Path) -> None:
    path = tmp_path / "dual.csv"
    torch_runtime(schedules.ScheduleDualPipeV, 2, 2, 8)._dump_csv(path, format="compute_only")
    assert "OVERLAP_F_B" in path.read_text()
    schedule = Schedule.from_csv(path).with_communication()
    schedule.check()
    assert schedule.to_torch_csv() == Schedule.from_csv(path).to_torch_csv()


@pytest.mark.parametrize("kind", KINDS)
def test_torch_reads_what_is_written(kind: str, tmp_path: Path) -> None:
    schedule = Schedule.make(kind, ranks=3, microbatches=6, recompute=False)
    path = tmp_path / "own.csv"
    schedule.to_torch_csv(path)
    runtime = bare_runtime(3, schedule.n_stages, 6)
    runtime._load_csv(path)
    order = computing(runtime.pipeline_order)
    assert order == [
        [f"{a.stage}{a.kind}{a.microbatch}" for a in schedule.actions(rank) if a.kind in "FBIW"] for rank in range(3)
    ]
    schedule.to_torch_csv(path, communication=True)
    runtime._load_csv(path, format="compute_comms")
    assert computing(runtime.pipeline_order_with_comms) == order


def test_own_files_hold_everything(tmp_path: Path) -> None:
    edges = [(0, 1), (1, 2), (0, 2)]
    schedule = Schedule.make("shifted", stages=3, microbatches=4, edges=edges)
    schedule.to_csv(tmp_path / "own.csv")
    assert Schedule.from_csv(tmp_path / "own.csv") == schedule


def test_what_torch_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="torch's schedules have no recompute"):
        Schedule.make("shifted", stages=3, microbatches=4).to_torch_csv()
    with pytest.raises(ValueError, match="neighbouring stages only"):
        Schedule.make("1f1b", stages=3, microbatches=4, edges=[(0, 1), (1, 2), (0, 2)]).to_torch_csv()
    (tmp_path / "none.csv").write_text("0F0,what\n")
    with pytest.raises(ValueError, match=r"none\.csv: row 1, cell 2: 'what' is no action"):
        Schedule.from_csv(tmp_path / "none.csv")
