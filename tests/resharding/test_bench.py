"""`merak bench resharding` on emulated hosts: every way gives the same bytes, and merak sends what its plan says."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benchmarks.resharding import command
from benchmarks.testbed import unavailable

REASON = unavailable()


@pytest.mark.slow
@pytest.mark.skipif(REASON is not None, reason=str(REASON))
def test_ways_beside_each_other(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    output = tmp_path / "lines.jsonl"
    options = ["--cases", "1", "--rate", "2000", "--repeats", "1", "--timeout", "200", "--output", str(output)]
    ways = ["merak", "point to point (gloo)", "striped, all-gather (merak)"]
    assert command.run(parser.parse_args([*options, "--ways", *ways])) == 0
    lines = {line["way"]: line for line in map(json.loads, output.read_text().splitlines())}
    assert set(lines) == set(ways)
    half = 8 * 1024 * 1024
    assert max(lines["merak"]["left"]) == pytest.approx(half, rel=0.08), (
        "each of two hosts sends half of it, and headers"
    )
    assert max(lines["point to point (gloo)"]["left"]) > 3.9 * half


def test_unknown_cases_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert command.run(parser.parse_args(["--cases", "10"])) == 1
    assert "there is no case '10'" in capsys.readouterr().err
