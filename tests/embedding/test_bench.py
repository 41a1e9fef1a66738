"""`merak bench embedding` on two emulated hosts: every way gives the sum, and what leaves a host is the formula's."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.embedding import command
from benchmarks.embedding.ways import WAYS, bytes_of_split_table
from benchmarks.testbed import unavailable
from tests.benches import lines_by_way

REASON = unavailable()


@pytest.mark.skipif(REASON is not None, reason=str(REASON))
def test_ways_beside_each_other(tmp_path: Path) -> None:
    lines = lines_by_way(command, tmp_path, "--tables", "0")
    assert set(lines) == set(WAYS)
    assert not any(line["error"] for line in lines.values())
    split = lines["alltoall"]
    formula = bytes_of_split_table(split["rank_rows"], 512, 28_881 / 8)
    assert max(split["left"]) == pytest.approx(formula, rel=0.02)
