"""`merak bench sparse` on two emulated hosts: every way gives the sum, and what leaves a host is what the plan says."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benchmarks.sparse.command import add_arguments, run
from benchmarks.sparse.ways import LOSSY, WAYS
from benchmarks.testbed import unavailable

REASON = unavailable()


@pytest.mark.skipif(REASON is not None, reason=str(REASON))
def test_ways_beside_each_other(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    output = tmp_path / "lines.jsonl"
    options = ["--hosts", "2", "--densities", "0.01", "--repeats", "1", "--timeout", "120", "--output", str(output)]
    assert run(parser.parse_args(options)) == 0
    lines = {line["way"]: line for line in map(json.loads, output.read_text().splitlines())}
    assert set(lines) == set(WAYS)
    assert all((line["error"] > 0) == (way in LOSSY) for way, line in lines.items())
    for method, (_, nbytes) in lines["auto"]["prices"].items():
        announced = 28_881 / 8
        assert max(lines[method]["left"]) == pytest.approx(nbytes + announced, rel=0.02)
