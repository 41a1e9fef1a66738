"""The benchmark of the collectives: its formulas, its statistics, and a short run over Gloo."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

from benchmarks.collectives.bounds import FORMULAS, bound_seconds, leaving_bytes
from benchmarks.collectives.cases import make_case
from benchmarks.collectives.command import add_arguments, parse_size, run
from benchmarks.collectives.record import read_records
from benchmarks.collectives.statistics import ratio_interval, slowest_rank
from benchmarks.collectives.suite import KIB, MIB, Suite
from benchmarks.testbed import unavailable
from merak.backend import bench
from merak.cli import main

REASON = unavailable()

# Bytes in the busiest direction of a link and bytes that leave all hosts, for V = 120 on 4 hosts x 2 ranks.
TRAFFIC = {
    "broadcast": (120, 360),
    "reduce": (120, 360),
    "all_reduce": (180, 720),
    "all_gather": (90, 360),
    "reduce_scatter": (90, 360),
    "all_to_all": (180, 720),
    "scatter": (90, 90),
    "gather": (90, 90),
    "barrier": (0, 0),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas(name: str) -> None:
    busiest, leaving = TRAFFIC[name]
    assert bound_seconds(name, 120, hosts=4, ranks=2, goodput=10.0) == busiest / 10
    assert leaving_bytes(name, 120, hosts=4, ranks=2) == leaving


@pytest.mark.parametrize("name", FORMULAS)
def test_one_host_needs_no_wire(name: str) -> None:
    assert bound_seconds(name, 120, hosts=1, ranks=4, goodput=1.0) == 0


@pytest.mark.parametrize("name", FORMULAS)
def test_every_collective_has_a_case(name: str) -> None:
    make_case(name, rank=1, size=4, nbytes=64).reset()


def test_the_slowest_rank_counts() -> None:
    assert slowest_rank(np.array([[1.0, 5.0], [2.0, 3.0]])).tolist() == [2.0, 5.0]


def test_equal_backends_have_an_interval_around_one() -> None:
    noise = np.random.default_rng(0)
    ratio, low, high = ratio_interval(1 + noise.random(200), 1 + noise.random(200), block=5)
    assert low < 1 < high
    assert ratio == pytest.approx(1, abs=0.1)


def test_neighbours_that_resemble_each_other_widen_the_interval() -> None:
    noise = np.random.default_rng(0)
    times, peer = (np.repeat(1 + noise.random(20), 10) for _ in range(2))
    narrow, wide = ratio_interval(times, peer, block=1), ratio_interval(times, peer, block=10)
    assert wide[2] - wide[1] > 1.5 * (narrow[2] - narrow[1])


def test_short_messages_are_measured_in_turns_and_barriers_once() -> None:
    suite = Suite(collectives=("barrier", "reduce"), sizes=(64 * MIB, KIB), pairs=200)
    short, long = suite.batches()
    assert short.measurements == (("barrier", 0), ("reduce", KIB))
    assert short.rounds * short.repetitions == 200
    assert long.measurements == (("reduce", 64 * MIB),)


def test_a_suite_travels_as_json() -> None:
    suite = Suite(sizes=(KIB,), interface="eth0")
    assert Suite.from_json(suite.to_json()) == suite


@pytest.mark.parametrize(("fields", "message"), [({"collectives": ("sum",)}, "'sum'"), ({"sizes": (6,)}, "not 6")])
def test_impossible_suites_are_refused(fields: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Suite(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "size"), [("64MiB", 64 * MIB), ("1kib", KIB), ("4096", 4096), ("8B", 8)])
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_without_a_checkout_the_command_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "find_checkout", lambda: None)
    assert main(["bench", "collectives", "--hosts", "2"]) == 1
    assert "checkout" in capsys.readouterr().err


@pytest.mark.skipif(REASON is not None, reason=str(REASON))
def test_a_backend_beside_itself(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    output = tmp_path / "records.jsonl"
    options = ["--hosts", "2", "--backends", "gloo", "gloo", "--collectives", "broadcast", "all_reduce"]
    options += ["--sizes", "4KiB", "1MiB", "--pairs", "5", "--repeats", "1", "--timeout", "120"]
    assert run(parser.parse_args([*options, "--output", str(output), "--pictures", str(tmp_path)])) == 0
    records = read_records(output)
    assert len(records) == 2 * 2 * 2
    assert all(record.ratio > 0.8 for record in records if record.ratio is not None and record.bytes == MIB)
    assert (tmp_path / "collectives-sizes.png").stat().st_size > 10_000
    # What Gloo's broadcast on two hosts must move, and no more: the counters read the right interface.
    [broadcast, _] = [record for record in records if (record.name, record.bytes) == ("broadcast", MIB)]
    assert broadcast.left is not None
    assert sum(broadcast.left) == pytest.approx(broadcast.left_bound, rel=0.02)
