"""The example as a whole: four ranks against one process, interrupted runs against whole ones, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.examples.runs import BACKEND, DEADLINE, LANGUAGE_MODEL, STEPS, content, losses

ALL_STEPS = list(range(1, STEPS + 1))


@pytest.fixture(scope="module")
def four_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a whole run on four ranks without dropout."""
    output = tmp_path_factory.mktemp("four")
    done = LANGUAGE_MODEL.run(4, output, "--dropout", "0")
    assert done.returncode == 0, done.stderr
    return output


def in_process(*arguments: str) -> int:
    """The exit status of the example as a world of one within this process, which spares the imports."""
    from train_language_model import main

    return main([*LANGUAGE_MODEL.tiny, *arguments])


def test_four_ranks_train_what_one_process_trains(four_ranks: Path, tmp_path: Path) -> None:
    assert in_process("--output", str(tmp_path), "--dropout", "0") == 0
    for kind in ("train", "validation"):
        assert losses(four_ranks, kind) == pytest.approx(losses(tmp_path, kind), abs=1e-4, rel=0)
    assert list(losses(four_ranks, "train")) == ALL_STEPS
    assert list(losses(four_ranks, "validation")) == [0, 25, 50]


def test_an_automatic_plan_trains_the_same(four_ranks: Path, tmp_path: Path) -> None:
    done = LANGUAGE_MODEL.run(4, tmp_path, "--dropout", "0", "--plan", "auto")
    assert done.returncode == 0, done.stderr
    assert "the busiest pipeline rank's time" in done.stdout
    for kind in ("train", "validation"):
        assert losses(four_ranks, kind) == pytest.approx(losses(tmp_path, kind), abs=1e-4, rel=0)


def test_it_learns(four_ranks: Path) -> None:
    validation = losses(four_ranks, "validation")
    assert validation[STEPS] < validation[0] - 1


def test_the_report_is_whole(four_ranks: Path) -> None:
    report = content(four_ranks)
    assert (report["backend"], report["ranks"]) == (BACKEND, 4)
    assert report["run"]["global_batch"] == 8
    assert (four_ranks / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_data_parallel_ranks_train_the_same_and_send_gradients_and_little_more(
    four_ranks: Path, tmp_path: Path
) -> None:
    done = LANGUAGE_MODEL.run(4, tmp_path, "--dropout", "0", "--engine", "ddp")
    assert done.returncode == 0, done.stderr
    for kind in ("train", "validation"):
        assert losses(four_ranks, kind) == pytest.approx(losses(tmp_path, kind), abs=1e-4, rel=0)
    # Besides the gradients travel losses, the tokenizer, DDP's first copy of the weights and the checkpoints' plans.
    session = content(tmp_path)["session"]
    assert session["ring_bytes"] <= session["bytes_sent"] <= 1.5 * session["ring_bytes"]


@pytest.mark.slow
def test_a_killed_rank_is_restarted_and_the_run_ends_as_if_nothing_had_happened(
    four_ranks: Path, tmp_path: Path
) -> None:
    options = ("--dropout", "0", "--resume")
    fresh_store = os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # docs/training.md says why
    command = LANGUAGE_MODEL.command(4, tmp_path, *options, torchrun=("--max-restarts", "1"))
    job = subprocess.Popen(command, env=fresh_store)
    try:
        kill_a_rank_after(tmp_path / "checkpoints" / "step-000020", job.pid)
        assert job.wait(timeout=DEADLINE) == 0
    finally:
        job.terminate()  # torchrun ends its ranks, too
        job.wait()
    assert content(tmp_path)["session"]["first_step"] in (21, 41)
    for kind in ("train", "validation"):
        assert losses(tmp_path, kind) == pytest.approx(losses(four_ranks, kind), abs=1e-6, rel=0)


def kill_a_rank_after(checkpoint: Path, torchrun: int) -> None:
    """Sends SIGKILL to rank 2 as soon as `checkpoint` exists."""
    deadline = time.monotonic() + DEADLINE
    while not checkpoint.exists():
        assert time.monotonic() < deadline, f"{checkpoint} was never written"
        time.sleep(0.002)
    ranks = {process.environ().get("RANK"): process for process in psutil.Process(torchrun).children()}
    ranks["2"].kill()


def test_a_resumed_run_equals_a_whole_one_with_dropout_too(tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert in_process("--output", str(whole), "--dropout", "0.1") == 0
    assert in_process("--output", str(halves), "--dropout", "0.1", "--stop-at", "23") == 0
    assert list(losses(halves, "train")) == ALL_STEPS[:23]
    assert in_process("--output", str(halves), "--dropout", "0.1", "--resume") == 0
    for kind in ("train", "validation"):
        assert losses(halves, kind) == losses(whole, kind)


def test_a_checkpoint_of_four_ranks_is_resumed_by_one(four_ranks: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    at_40 = (four_ranks / "checkpoints" / "step-000040").rename(tmp_path / "checkpoints" / "step-000040")
    try:
        assert in_process("--output", str(tmp_path), "--dropout", "0", "--resume") == 0
        assert losses(tmp_path, "train") == pytest.approx(losses(four_ranks, "train"), abs=1e-4, rel=0)
    finally:
        at_40.rename(four_ranks / "checkpoints" / "step-000040")


def test_a_run_defined_otherwise_is_not_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert in_process("--output", str(tmp_path), "--stop-at", "1") == 0
    assert in_process("--output", str(tmp_path), "--resume", "--seed", "5") == 2
    assert "seed was 0 and is 5" in capsys.readouterr().err


def test_a_new_run_moves_the_checkpoints_of_the_last_aside(tmp_path: Path) -> None:
    assert in_process("--output", str(tmp_path), "--stop-at", "2") == 0
    assert in_process("--output", str(tmp_path), "--stop-at", "1") == 0
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]
    assert [path.name for path in (tmp_path / "checkpoints.previous").iterdir()] == ["step-000002"]


def test_ranks_that_cannot_share_the_batch_evenly_are_refused(tmp_path: Path) -> None:
    done = LANGUAGE_MODEL.run(3, tmp_path)
    assert done.returncode != 0
    assert "--global-batch 8 does not divide evenly over 3 ranks; choose 6 or 9." in done.stderr


def test_an_unknown_backend_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert in_process("--backend", "carrier_pigeon") == 2
    assert "knows no backend 'carrier_pigeon'" in capsys.readouterr().err
