"""`merak bench pipeline` on emulated hosts: every way gives the same gradients, over the same bytes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pipeline import command
from benchmarks.pipeline.cases import CASES
from benchmarks.testbed import unavailable

REASON = unavailable()
SHIFTED, LOOP, RUNTIME = "merak shifted", "torch 1f1b (gloo)", "torch-runtime eager (merak)"
FORWARD_MS = 5


@pytest.mark.skipif(REASON is not None, reason=str(REASON))
def test_ways_beside_each_other(tmp_path: Path) -> None:
    output, picture = tmp_path / "lines.jsonl", tmp_path / "picture.png"
    options = ["--forward-ms", str(FORWARD_MS), "--repeats", "1", "--timeout", "200", "--output", str(output)]
    options += ["--cases", "slow boundaries", "recompute", "--picture", str(picture)]
    assert _run(*options, "--ways", SHIFTED, LOOP, RUNTIME) == 0
    lines = {(line["case"], line["way"]): line for line in map(json.loads, output.read_text().splitlines())}
    assert len(lines) == 6
    for (case, _), line in lines.items():
        if case == "slow boundaries":
            _check_bytes(line)
    _check_recomputation(lines["recompute", SHIFTED], lines["recompute", LOOP])
    assert picture.stat().st_size > 10_000


def _check_bytes(line: dict[str, Any]) -> None:
    values = line["microbatches"] * line["message_bytes"]
    expected = [values, 2 * values, 2 * values, values]
    assert line["left"] == pytest.approx(expected, rel=0.1), "hosts send values on, and gradients back, and headers"
    assert [len(spans) for spans in line["spans"]] == [2 * line["microbatches"]] * 4


def _check_recomputation(shifted: dict[str, Any], loop: dict[str, Any]) -> None:
    assert shifted["times"][0] > 0.99 * shifted["simulated_s"]
    assert loop["times"][0] > 44 * FORWARD_MS / 1e3, "11 times F, R and B, which takes two"
    counts = [[sum(span[1] == "R" for span in spans) for spans in line["spans"]] for line in (shifted, loop)]
    assert counts == [[8, 8, 8, 0], [8, 8, 8, 8]], "shifted does not recompute in the last stage"


@pytest.mark.parametrize(
    ("case", "slower", "faster", "ratio"),
    [("slow boundaries", "1f1b", "eager", 1.605), ("recompute", "1f1b", "shifted", 44 / 38)],
)
def test_cases_are_those_of_the_bounds(case: str, slower: str, faster: str, ratio: float) -> None:
    one, other = (
        CASES[case].schedule(kind).simulate(CASES[case].costs(kind, 0.03, 1e12 if case == "recompute" else 6e7)).seconds
        for kind in (slower, faster)
    )
    assert one / other == pytest.approx(ratio, rel=1e-3)


def test_unknown_ways_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("--ways", "torch eager (gloo)") == 1
    assert "there is no way 'torch eager (gloo)'" in capsys.readouterr().err


def _run(*options: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(options))
