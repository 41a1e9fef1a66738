"""The table of benchmarks/sparse/convergence.py."""

from __future__ import annotations

import re
from typing import Any

from benchmarks.sparse.convergence import table


def record(way: str, seed: int, loss: float, sent: int | None) -> dict[str, Any]:
    return {"way": way, "seed": seed, "loss": loss, "bytes_sent": sent, "sparse_bytes_sent": sent and sent // 2}


def cells(records: list[dict[str, Any]]) -> list[list[str]]:
    """The lines of the table below its head, cut at wide gaps."""
    return [re.split(r"  +", line) for line in table(records).splitlines()[1:]]


def test_losses_are_compared_seed_by_seed() -> None:
    records = [
        record("exact", 0, 4.0, 10**9),
        record("gloo", 0, 4.5, None),
        record("exact", 1, 5.0, 3 * 10**9),
        record("gloo", 1, 5.5, None),
    ]
    assert cells(records) == [
        ["exact", "2", "4.5000 +- 0.7071", "0.00000 +- 0.00000", "2.000", "1.000"],
        ["gloo", "2", "5.0000 +- 0.7071", "0.50000 +- 0.00000", "n/a", "n/a"],
    ]


def test_one_seed_has_no_deviation() -> None:
    assert cells([record("exact", 0, 4.0, 0)]) == [["exact", "1", "4.0000", "0.00000", "0.000", "0.000"]]
