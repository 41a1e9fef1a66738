"""`merak bench embedding` on two emulated hosts: every way gives the sum, and what leaves a host is the formula's."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benchmarks.embedding.command import add_arguments, run
from benchmarks.embedding.ways import WAYS, bytes_of_split_table
from benchmarks.testbed import unavailable

REASON = unavailable()


@pytest.mark.skipif(REASON is not None, reason=str(REASON))
def test_ways_beside_each_other(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    output = tmp_path / "lines.jsonl"
    options = ["--hosts", "2", "--tables", "0", "--repeats", "1", "--timeout", "120", "--output", str(output)]
    assert run(parser.parse_args(options)) == 0
    lines = {line["way"]: line for line in map(json.loads, output.read_text().splitlines())}
    assert set(lines) == set(WAYS)
    assert not any(line["error"] for line in lines.values())
    split = lines["alltoall"]
    formula = bytes_of_split_table(split["rank_rows"], 512, 28_881 / 8)
    assert max(split["left"]) == pytest.approx(formula, rel=0.02)
