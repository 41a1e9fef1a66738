"""`merak bench sparse` on two emulated hosts: every way gives the sum, and what leaves a host is what the plan says."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.sparse import command
from benchmarks.sparse.ways import LOSSY, WAYS
from benchmarks.testbed import unavailable
from tests.benches import lines_by_way

REASON = unavailable()


@pytest.mark.slow
@pytest.mark.skipif(REASON is not None, reason=str(REASON))
def test_ways_beside_each_other(tmp_path: Path) -> None:
    lines = lines_by_way(command, tmp_path, "--densities", "0.01")
    assert set(lines) == set(WAYS)
    assert all((line["error"] > 0) == (way in LOSSY) for way, line in lines.items())
    for method, (_, nbytes) in lines["auto"]["prices"].items():
        announced = 28_881 / 8
        assert max(lines[method]["left"]) == pytest.approx(nbytes + announced, rel=0.02)
