"""The embedding model example as a whole: every reduction against one process."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tests.examples.runs import EMBEDDING_MODEL, content, losses

RUNS = {"exact": 4, "dense": 2, "gloo": 2, "alltoall": 4}  # ranks


def in_process(*arguments: str) -> int:
    """The exit status of the example as a world of one within this process, which spares the imports."""
    from train_embedding_model import main

    return main([*EMBEDDING_MODEL.tiny, *arguments])


def way_of(report: dict[str, Any]) -> str:
    """Which of RUNS it is."""
    run = report["run"]
    return str(run["reduce"] if run["embedding"] == "replicated" else run["embedding"])


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run by one process."""
    output = tmp_path_factory.mktemp("one")
    assert in_process("--output", str(output)) == 0
    return output


@pytest.fixture(scope="module", params=RUNS)
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run by several ranks, one for each reduction."""
    output = tmp_path_factory.mktemp(request.param)
    how = ["--embedding", "alltoall"] if request.param == "alltoall" else ["--reduce", request.param]
    done = EMBEDDING_MODEL.run(RUNS[request.param], output, *how)
    assert done.returncode == 0, done.stderr
    return output


def test_ranks_train_what_one_process_trains(ranks: Path, one_process: Path) -> None:
    for kind in ("train", "validation"):
        assert losses(ranks, kind) == pytest.approx(losses(one_process, kind), abs=2e-5, rel=0)
    of_ranks, of_one = (content(output)["rows_per_step"] for output in (ranks, one_process))
    assert all(of_ranks[table]["union"] == of_one[table]["rank"] for table in ("embedding", "classes"))


def test_the_report_is_whole(ranks: Path) -> None:
    report = content(ranks)
    name, size = way_of(report), report["ranks"]
    assert (size, report["backend"]) == (RUNS[name], "gloo" if name == "gloo" else "merak")
    assert report["all_gather_bytes"] > 0 < report["waited_per_step"]
    assert (ranks / "loss.png").read_bytes().startswith(b"\x89PNG")
    tables = sum(report["sparse_tables"].values())
    assert tables == (2 * 12 if name == "exact" else 0)  # two tables a step


def test_bytes_are_those_of_the_gradients(ranks: Path) -> None:
    report = content(ranks)
    sent, dense = report["session"]["bytes_sent"], report["session"]["ring_bytes"]
    if way_of(report) == "gloo":
        assert sent is None
    elif way_of(report) == "dense":
        assert dense <= sent <= 1.1 * dense
    elif way_of(report) == "alltoall":
        assert sum(report["sparse_bytes_sent"].values()) == 0 < sent < dense
    else:
        assert 0 < sum(report["sparse_bytes_sent"].values()) < sent < dense


def test_it_learns(one_process: Path) -> None:
    validation = losses(one_process, "validation")
    assert validation[0] == pytest.approx(math.log(content(one_process)["run"]["rows"]), abs=0.1)
    assert validation[12] < validation[0] - 0.5


def test_the_seed_changes_the_run(one_process: Path, tmp_path: Path) -> None:
    assert in_process("--output", str(tmp_path), "--seed", "1", "--steps", "1") == 0
    assert losses(tmp_path, "train")[1] != losses(one_process, "train")[1]


def test_more_negatives_than_words_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert in_process("--negatives", "2001") == 2
    assert "there are only 2000 words" in capsys.readouterr().err
