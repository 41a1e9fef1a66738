"""Calibration: least squares on times that are known, clusters put together of what was measured, real processes."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from merak.cli import main
from merak.planner import calibration, cluster_file, collective_speed
from merak.planner.calibration import Host, assemble
from merak.planner.cluster import Cluster
from merak.planner.collective_times import crossing, steps
from merak.planner.device import Device
from merak.planner.fitting import fit
from merak.planner.link import COLLECTIVES, Link
from tests.backend.harness import Context

Runner = Callable[..., list[Any]]
SIZES = [512.0 * 8**power for power in range(7)]
DEVICE = Device("CPU, 1 thread", {"fp32": 1e11, "bf16": 1e10}, 8 << 30, 1e10, 1e-6, "a test")
INSIDE, BETWEEN = Link(1e9, 1e-5, {"all_reduce": (2e-5, 2e-9)}), Link(1e8, 1e-4)


@pytest.mark.parametrize("count", [2, 3, 5, 7])
@pytest.mark.parametrize("kind", COLLECTIVES)
def test_times_on_a_line_give_its_alpha_and_beta(kind: str, count: int) -> None:
    crossed = [crossing(kind, 4) * nbytes for nbytes in SIZES[:count]]
    seconds = [steps(kind, 4) * 3e-5 + 2e-9 * nbytes for nbytes in crossed]
    assert fit(steps(kind, 4), crossed, seconds) == pytest.approx((3e-5, 2e-9))


@pytest.mark.parametrize("seed", range(20))
def test_times_beside_a_line_give_nearly_its_alpha_and_beta(seed: int) -> None:
    choice = random.Random(seed)
    true_alpha, true_beta = 10 ** choice.uniform(-5.5, -3.5), 10 ** choice.uniform(-9.5, -8)
    seconds = [(6 * true_alpha + true_beta * nbytes) * choice.uniform(0.95, 1.05) for nbytes in SIZES]
    alpha, beta = fit(6, SIZES, seconds)
    assert beta == pytest.approx(true_beta, rel=0.12), seed
    shortest = 6 * true_alpha + true_beta * SIZES[0]
    assert 6 * alpha + beta * SIZES[0] == pytest.approx(shortest, rel=0.15), seed


def test_a_wire_that_lets_the_first_bytes_pass_at_once_has_the_beta_of_the_others() -> None:
    burst = 128 * 1024
    seconds = [1e-4 + max(0.0, nbytes - burst) / 1e8 for nbytes in SIZES]
    alpha, beta = fit(1, SIZES, seconds)
    assert beta == pytest.approx(1e-8, rel=0.01)
    assert alpha == pytest.approx(1e-4, rel=0.3)


@pytest.mark.parametrize("seconds", [[1e-3, 1e-3, 1e-3], [3e-3, 2e-3, 1e-3]])
def test_times_that_do_not_grow_count_for_the_bytes_too(seconds: list[float]) -> None:
    alpha, beta = fit(2, SIZES[:3], seconds)
    assert 0 < alpha <= seconds[0] / 2
    assert beta == seconds[-1] / SIZES[2]


def test_times_that_bytes_alone_explain_count_for_the_steps_too() -> None:
    assert fit(2, SIZES[:3], [1e-6, 1e-5, 1e-3])[0] == 1e-6 / 2


def test_alpha_is_that_of_messages_whose_bytes_take_less_than_half_of_their_time() -> None:
    alpha, beta = fit(1, [100, 1000, 10_000, 100_000], [5e-5, 1.6e-5, 1.5e-4, 1.05e-3])
    assert (alpha, beta) == (pytest.approx(5e-5 - 100 * 1e-8), pytest.approx(1e-8))


def devices(*speeds: float) -> tuple[Device, ...]:
    return tuple(dataclasses.replace(DEVICE, flops={"fp32": speed, "bf16": 1e10}) for speed in speeds)


def test_hosts_that_differ_by_no_more_than_15_percent_are_one_group() -> None:
    cluster = assemble("x", [Host(devices(1e11, 1e11), INSIDE), Host(devices(1.14e11, 1.14e11), INSIDE)], BETWEEN)
    assert [(group.hosts, group.devices_per_host) for group in cluster.groups] == [(2, 2)]
    assert cluster.device(0).flops["fp32"] == pytest.approx(1.07e11)
    assert (cluster.groups[0].inside, cluster.between) == (INSIDE, BETWEEN)


@pytest.mark.parametrize(
    "other",
    [
        Host(devices(1.16e11, 1.16e11), INSIDE),
        Host(devices(0.86e11, 0.86e11), INSIDE),
        Host(devices(1e11), None),
        Host(tuple(dataclasses.replace(one, memory_bytes_per_s=1.2e10) for one in devices(1e11, 1e11)), INSIDE),
        Host(tuple(dataclasses.replace(one, flops={"fp32": 1e11}) for one in devices(1e11, 1e11)), INSIDE),
        Host(tuple(dataclasses.replace(one, name="another") for one in devices(1e11, 1e11)), INSIDE),
    ],
    ids=["faster", "slower", "fewer devices", "memory", "dtypes", "name"],
)
def test_hosts_that_differ_more_are_groups_in_the_order_of_ranks(other: Host) -> None:
    host = Host(devices(1e11, 1e11), INSIDE)
    cluster = assemble("x", [host, host, other, host], BETWEEN)
    assert [group.hosts for group in cluster.groups] == [2, 1, 1]
    numbers = [one for index, count in enumerate((2, 2, len(other.devices), 2)) for one in [index] * count]
    assert [cluster.host_of(number) for number in range(cluster.devices)] == numbers


def test_a_group_has_the_median_of_its_devices_and_links() -> None:
    slow, fast = Link(0.9e9, 2e-5, {"all_reduce": (4e-5, 3e-9)}), Link(1.2e9, 1e-6, {"all_reduce": (1e-5, 1e-9)})
    hosts = [
        Host(devices(0.99e11, 1e11), slow),
        Host(devices(1.01e11, 1.02e11), INSIDE),
        Host(devices(1e11, 1e11), fast),
    ]
    least = dataclasses.replace(hosts[1].devices[0], memory_bytes=4 << 30)
    hosts[1] = Host((least, hosts[1].devices[1]), INSIDE)
    (group,) = assemble("x", hosts, BETWEEN).groups
    assert (group.device.flops["fp32"], group.device.memory_bytes) == (1e11, 4 << 30)
    assert group.inside == INSIDE


def test_links_that_nothing_crosses_need_not_be_measured() -> None:
    assert assemble("one host", [Host(devices(1e11, 1e11), INSIDE)], None).groups[0].inside == INSIDE
    assert assemble("one each", [Host(devices(1e11), None)] * 2, BETWEEN).between == BETWEEN
    assert assemble("alone", [Host(devices(1e11), None)], None).devices == 1


def test_every_collective_is_fitted_by_its_own_steps_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A link whose times are made up gives them back."""
    true = {kind: (1e-5 * (1 + place), 1e-9 * (1 + place)) for place, kind in enumerate(COLLECTIVES)}
    asked = []

    def operation(kind: str, elements: int, *_: Any) -> tuple[str, int]:
        asked.append((kind, elements))
        return kind, elements

    def seconds(operation: tuple[str, int], group: Any, device: torch.device, rounds: int) -> float:
        kind, elements = operation
        alpha, beta = true[kind]
        once = steps(kind, 3) * alpha + crossing(kind, 3) * 4 * elements * beta
        return 2 * once if kind == "send" else once  # forth and back

    class Group:
        size = staticmethod(lambda: 3)

    monkeypatch.setattr(collective_speed, "_operation", operation)
    monkeypatch.setattr(collective_speed, "_seconds", seconds)
    link = collective_speed.measure_link(Group(), torch.device("cpu"), 1, 1 << 30)  # type: ignore[arg-type]
    assert (link.latency_s, link.bytes_per_s) == (pytest.approx(6e-5), pytest.approx(1 / 6e-9))
    assert link.collectives.keys() == set(COLLECTIVES) - {"send"}
    for kind, pair in link.collectives.items():
        assert pair == (pytest.approx(true[kind][0]), pytest.approx(true[kind][1]))
    assert all(elements % 3 == 0 for _, elements in asked)
    # The first that takes 10 ms is the last.
    assert max(elements for kind, elements in asked if kind == "broadcast") == -(-(512 * 8**4) // 12) * 3


def calibrated(context: Context, hosts: list[str]) -> str:
    """The cluster as JSON, on hosts that are only said to be different ones."""
    dist.destroy_process_group()
    os.environ["MERAK_HOST_ID"] = hosts[context.rank]
    try:
        store = dist.PrefixStore("calibrated", context.store)
        dist.init_process_group("merak", store=store, rank=context.rank, world_size=context.world_size)
        told: list[str] = []
        cluster = calibration.calibrate(rounds=1, largest_bytes=300_000, progress=told.append)
        assert bool(told) == (context.rank == 0)
        return json.dumps(cluster_file.to_json(cluster))
    finally:
        del os.environ["MERAK_HOST_ID"]


def assert_plausible(cluster: Cluster, hosts: list[str]) -> None:
    assert [cluster.host_of(number) for number in range(cluster.devices)] == [
        sorted(set(hosts)).index(one) for one in hosts
    ]
    for group in cluster.groups:
        assert "fp32" in group.device.flops
        assert group.device.source.startswith("measured by merak")
    for kind in COLLECTIVES:
        for nbytes in (0, 1e6):
            seconds = cluster.seconds(kind, nbytes, (0, 1) if kind == "send" else range(len(hosts)))
            assert math.isfinite(seconds)
            assert seconds >= 0
        assert cluster.seconds(kind, 1e6, (0, 1)) > 0


@pytest.mark.parametrize("hosts", [["a", "a"], ["a", "b"], ["a", "a", "b", "b"], ["a", "b", "b", "b"]], ids="".join)
def test_all_ranks_find_the_same_cluster(run: Runner, hosts: list[str], tmp_path: Path) -> None:
    texts = run(calibrated, hosts, world_size=len(hosts), backend="merak")
    assert set(texts) == {texts[0]}
    (tmp_path / "cluster.json").write_text(texts[0])
    cluster = Cluster.load(tmp_path / "cluster.json")
    assert_plausible(cluster, hosts)
    measured = set(COLLECTIVES) - {"send"}
    for group in cluster.groups:
        assert group.devices_per_host == 1 or group.inside.collectives.keys() == measured
    assert cluster.hosts == 1 or cluster.between.collectives.keys() == measured
    if len(set(hosts)) < len(hosts) and cluster.hosts > 1:
        assert all(group.inside != cluster.between for group in cluster.groups if group.devices_per_host > 1)


def refused(context: Context) -> str:
    with pytest.raises(ValueError, match="must follow each other") as error:
        calibrated(context, ["a", "b", "a"])
    return str(error.value)


def test_ranks_that_are_not_numbered_host_by_host_are_refused(run: Runner) -> None:
    assert set(run(refused, world_size=3, backend="merak")) == {
        "the ranks have hosts [0, 1, 0], and those of one host must follow each other: number the ranks host by host, "
        "as torchrun does"
    }


def test_without_torchrun_the_command_says_how_to_launch_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert main(["bench", "--calibrate"]) == 2
    assert "torchrun --nnodes HOSTS" in capsys.readouterr().err


def test_a_missing_gpu_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "--calibrate", "--device", "cuda"]) == 1
    assert "--device is cuda, and torch finds none here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--calibrate", "--rounds", "0"], "--rounds is 0; expected 1 or more"),
        (["--calibrate", "collectives"], "runs no benchmark"),
    ],
)
def test_wrong_use_of_the_command_is_refused(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 2
    assert text in capsys.readouterr().err


def test_bench_without_anything_asks_for_a_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["bench"])
    assert exit_.value.code == 2
    assert "name a benchmark: collectives" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_under_torchrun(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = ["-m", "merak", "bench", "--calibrate", "--rounds", "1", "--output", str(tmp_path / "cluster.json")]
    ran = subprocess.run([*launch, *command], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    cluster = Cluster.load(tmp_path / "cluster.json")
    assert_plausible(cluster, ["a", "a"])
    assert cluster.explain() in ran.stdout
