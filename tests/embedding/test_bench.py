"""`merak bench embedding` on two emulated hosts: every way gives the sum, and what leaves a host is the formula's; and
what it says where TorchRec cannot be measured, before it makes any host."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

from benchmarks.embedding import command
from benchmarks.embedding.torchrec_environment import ADVICE
from benchmarks.embedding.ways import WAYS, bytes_of_split_table
from benchmarks.testbed import unavailable
from tests.benches import lines_by_way

REASON = unavailable()
INSTALLATION = "pip install --no-deps -r benchmarks/embedding/requirements-torchrec.txt"


@pytest.mark.skipif(REASON is not None, reason=str(REASON))
@pytest.mark.slow
def test_ways_beside_each_other(tmp_path: Path) -> None:
    lines = lines_by_way(command, tmp_path, "--tables", "0")
    assert set(lines) == set(WAYS)
    assert not any(line["error"] for line in lines.values())
    split = lines["alltoall"]
    formula = bytes_of_split_table(split["rank_rows"], 512, 28_881 / 8)
    assert max(split["left"]) == pytest.approx(formula, rel=0.02)


def refusal(capfd: pytest.CaptureFixture[str], *options: str) -> str:
    """What the command says; it must fail, and not have measured anything."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert command.run(parser.parse_args(options)) == 1
    out, error = capfd.readouterr()
    assert not out
    return error


def test_no_such_python(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "python"
    said = refusal(capfd, "--torchrec", str(missing))
    assert f"{missing} does not run: No such file or directory" in said
    assert INSTALLATION in said


def test_python_without_torchrec(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')  # without any installed package
    bare.chmod(0o755)
    said = refusal(capfd, "--torchrec", str(bare))
    assert "cannot import TorchRec (ModuleNotFoundError: No module named 'torchrec')" in said
    assert INSTALLATION in said


def test_columns_that_torchrec_cannot_split(capfd: pytest.CaptureFixture[str]) -> None:
    said = refusal(capfd, "--torchrec", sys.executable, "--hosts", "4", "3")
    assert "TorchRec cannot split 512 columns over 3 hosts" in said


def test_the_file_that_it_names_pins_everything() -> None:
    lines = (Path(command.__file__).parent / "requirements-torchrec.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert {"torch", "torchrec", "fbgemm-gpu-cpu"} <= set(pins)
    assert f"pip install torch=={pins['torch']}`" in ADVICE
