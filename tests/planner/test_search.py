"""Plans that are found, beside all plans that there are."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from merak.graph.cutting import DoesNotFitError
from merak.planner import Cluster, Found, NothingFitsError, Plan, Prediction, Prices, Workload, find_plan, predict
from merak.planner.arrangements import Shapes, Space
from merak.planner.search import Search

ROWS = 8
LAYERS, HIDDEN = 3, 64


class Layers(torch.nn.Module):
    """Residual feed-forward layers, of which tensor parallelism knows what to do."""

    def __init__(self, layers: int = LAYERS, hidden: int = HIDDEN) -> None:
        super().__init__()
        wide = 4 * hidden
        self.layers = torch.nn.ModuleList(
            torch.nn.Sequential(torch.nn.Linear(hidden, wide), torch.nn.ReLU(), torch.nn.Linear(wide, hidden))
            for _ in range(layers)
        )

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        for layer in self.layers:
            x = x + layer(x)
        return {"loss": x.square().mean()}


def batch_of(rows: int = ROWS, hidden: int = HIDDEN) -> dict[str, torch.Tensor]:
    return {"x": torch.ones(rows, 32, hidden)}


CLUSTERS = {
    "slow network": Cluster.uniform("CPU core", 4, 1, between="100Mbit/s"),
    "fast network": Cluster.uniform("CPU core", 4, 1, between="40GB/s 1us"),
    "two hosts": Cluster.uniform("CPU core", 2, 2, inside="PCIe4", between="1Gbit/s"),
    "one host": Cluster.uniform("RTX3090", 1, 8, inside="PCIe4"),
}


@pytest.fixture(scope="module")
def workload() -> Workload:
    return Workload(Layers(), batch_of())


def search(workload: Workload, cluster: Cluster, memory: int | None = None, **pinned: object) -> Found:
    return Search(Prices(workload, cluster), ROWS, memory, pinned, print).run()


def every_plan(prices: Prices, memory: int | None) -> Iterator[Prediction]:
    """Of all that a search may choose from, cut at every three boundaries or all that there are."""
    devices = prices.cluster.devices
    for dp in (one for one in range(1, devices + 1) if devices % one == 0):
        for microbatches in (one for one in range(1, ROWS // dp + 1) if ROWS // dp % one == 0):
            for pp in range(1, min(devices // dp, 8) + 1):
                for widths in itertools.product(sorted(widths_of(prices.cluster)), repeat=pp):
                    if dp * sum(widths) == devices:
                        yield from ways(prices, dp, microbatches, widths, memory)


def widths_of(cluster: Cluster) -> set[int]:
    per_host = cluster.groups[0].devices_per_host
    return {width for width in range(1, per_host + 1) if per_host % width == 0}


def ways(
    prices: Prices, dp: int, microbatches: int, widths: tuple[int, ...], memory: int | None
) -> Iterator[Prediction]:
    points = range(1, len(prices.points) + 1)
    for sequence, sub_batches in itertools.product((False, True), (1, 2)):
        if (max(widths) == 1 and (sequence or sub_batches > 1)) or ROWS // (dp * microbatches) % sub_batches:
            continue
        if len(set(widths)) > 1 and sub_batches > 1:
            continue
        for schedule in ("1f1b", "eager") if len(widths) > 1 else ("1f1b",):
            plan = Plan(
                dp=dp,
                tp=widths,
                pp=len(widths),
                microbatches=microbatches,
                schedule=schedule,
                recompute="auto",
                sequence_parallel=sequence,
                sub_batches=sub_batches,
                data_parallel="zero1" if dp > 1 else "all-reduce",
                memory=memory,
            )
            for segments in itertools.combinations(points, len(widths) - 1):
                try:
                    yield predict(plan, prices, ROWS, segments, in_segments=True)
                except DoesNotFitError:
                    continue


@pytest.mark.parametrize("name", CLUSTERS)
def test_no_plan_is_faster(workload: Workload, name: str) -> None:
    cluster = CLUSTERS[name]
    prices = Prices(workload, cluster)
    prices.points = prices.points[::3][:4]
    found = Search(prices, ROWS, None, {}, print).run()
    best = min(every_plan(prices, None), key=lambda one: one.step_s)
    print(found.explain(), best.plan, best.boundaries, best.step_s)
    assert found.best.step_s <= best.step_s * 1.03  # both reckon by formula, and choose by simulation


def test_what_does_not_fit_is_recomputed_or_spread(workload: Workload) -> None:
    free = search(workload, CLUSTERS["slow network"])
    needed = max(free.best.memory_bytes)
    tight = search(workload, CLUSTERS["slow network"], memory=int(0.9 * needed))
    assert max(tight.best.memory_bytes) <= 0.9 * needed
    assert tight.best.step_s >= free.best.step_s


def test_nothing_fits_says_what_is_missing(workload: Workload) -> None:
    with pytest.raises(NothingFitsError, match=r"no plan fits into the devices' memory. What misses least: .*misses"):
        search(workload, CLUSTERS["slow network"], memory=10_000)


@pytest.mark.parametrize("dp", [1, 2, 3])
def test_no_stage_lies_across_hosts(workload: Workload, dp: int) -> None:
    cluster = Cluster.uniform("CPU core", 3, 4, inside="PCIe4", between="1Gbit/s")
    space = Space(dp, ROWS, 1, False, 1)
    shapes = Shapes(Prices(workload, cluster), space, {})
    for (width, _), begins in shapes.places.items():
        for before in range(12 // dp - width + 1):
            teams = [shapes.team(before, width, replica) for replica in range(dp)]
            within = all(cluster.host_of(team[0]) == cluster.host_of(team[-1]) for team in teams)
            assert (before in begins) == within, (width, before)


@pytest.mark.parametrize(
    "pinned", [{"pp": 4}, {"dp": 2, "schedule": "eager"}, {"tp": 2}, {"tp": (2, 1, 1)}, {"microbatches": 2}]
)
def test_what_is_pinned_is_so(workload: Workload, pinned: dict[str, object]) -> None:
    plan = search(workload, CLUSTERS["two hosts"], **pinned).plan
    assert {name: getattr(plan, name) for name in pinned} == pinned
    assert plan.world_size == 4


def test_what_cannot_be_pinned_is_refused(workload: Workload) -> None:
    with pytest.raises(ValueError, match="seed cannot be pinned; what can is dp, tp, pp"):
        find_plan(Layers(), batch_of(), CLUSTERS["one host"], seed=3)
    with pytest.raises(ValueError, match="no plan divides 8 rows and 4 devices as it is pinned"):
        search(workload, CLUSTERS["two hosts"], dp=3)
    with pytest.raises(ValueError, match="precision is 'fp8'"):
        find_plan(Layers(), batch_of(), CLUSTERS["one host"], precision="fp8")


def test_a_plan_is_explained_and_kept(workload: Workload, tmp_path: Path) -> None:
    cluster = CLUSTERS["two hosts"]
    found = search(workload, cluster)
    text = found.explain()
    for words in ("a step takes", "the busiest pipeline rank's time", "the next best, and what more they spend"):
        assert words in text
    found.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == found.plan
    changed = found.what_if(cluster)
    assert [line.split(":")[0] for line in changed.splitlines()] == [
        "one GB more on each device",
        "twice the bandwidth between hosts",
        "twice the bandwidth inside hosts",
    ]


@pytest.mark.parametrize("schedule", ["1f1b", "shifted", "zero-bubble", "interleaved", "zbv", "eager-delayed", "gpipe"])
@pytest.mark.parametrize("recompute", [0.0, 1.0])
def test_memory_over_time_peaks_where_it_is_predicted(workload: Workload, schedule: str, recompute: float) -> None:
    stages = 4 if schedule in ("interleaved", "zbv") else 2
    plan = Plan(pp=2, dp=2, microbatches=4, schedule=schedule, stages=stages, recompute=recompute)
    found = predict(plan, Prices(workload, CLUSTERS["two hosts"]), ROWS)
    for rank in range(2):
        line = found.memory_over_time(rank)
        assert [seconds for seconds, _ in line] == sorted(seconds for seconds, _ in line)
        assert max(nbytes for _, nbytes in line) == pytest.approx(found.memory_bytes[rank])
        assert line[0][1] == pytest.approx(line[-1][1])  # after a step all micro-batches are gone
        assert min(nbytes for _, nbytes in line) >= 0
        if schedule not in ("zero-bubble", "zbv", "eager-delayed"):
            assert found.memory_bytes[rank] <= found.cut.memory_bytes[rank] * (1 + 1e-9)


def test_a_plan_is_drawn(workload: Workload, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = search(workload, CLUSTERS["two hosts"], pp=2)
    found.picture(tmp_path / "plan.svg", most=2)
    text = (tmp_path / "plan.svg").read_text()
    assert all(f"<!-- {words} -->" in text for words in ("rank 1", "compute", "sum of gradients", "forward"))
    assert text.count("<!-- ") > 20


def test_more_bandwidth_and_memory_never_hurt(workload: Workload) -> None:
    steps = [
        search(workload, Cluster.uniform("CPU core", 4, 1, between=f"{rate}Mbit/s 50us")).best.step_s
        for rate in (100, 300, 1000, 10000)
    ]
    assert steps == sorted(steps, reverse=True)


def test_stages_are_put_on_the_devices_of_uneven_clusters() -> None:
    """A fast device and three slow ones: the fast one gets the most layers."""
    slow = CLUSTERS["slow network"].groups[0]
    fast = dataclasses.replace(
        slow,
        hosts=1,
        device=dataclasses.replace(
            slow.device,
            name="fast",
            flops={"fp32": 4 * slow.device.flops["fp32"]},
            memory_bytes_per_s=4 * slow.device.memory_bytes_per_s,
            of_peak={},
        ),
    )
    cluster = Cluster("uneven", (fast, dataclasses.replace(slow, hosts=3)), CLUSTERS["fast network"].between)
    found = Search(Prices(Workload(Layers(12), batch_of()), cluster), ROWS, None, {"dp": 1, "tp": 1}, print).run()
    nodes = [stage.end - stage.first for stage in found.best.cut.stages]
    assert len(nodes) == 4
    assert nodes[0] > 2 * max(nodes[1:])
