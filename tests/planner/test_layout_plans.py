"""Layouts found for models: beside Megatron's, on meshes of two axes, in little memory, and in training."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

import merak
from merak.engine import Plan
from merak.planner import Cluster, Prices, Workload
from merak.planner.layout_choice import by_width
from merak.planner.layout_model import LayoutModel, Setting
from merak.planner.layout_plan import FoundLayouts, LayoutsDoNotFitError, find_layouts, links_of, settled_s
from merak.planner.layout_program import solve
from merak.planner.search import Search, with_layouts
from merak.planner.shared_work import SharedWorkload
from merak.sharding import Dim, annotate
from merak.sharding.completion import Completion
from merak.sharding.program import ShardableGraph
from tests.backend.harness import Context
from tests.engine import zoo

Runner = Callable[..., list[Any]]
MODELS = ("gpt2", "llama", "bert", "t5", "vit")
ROWS = 4
CLUSTERS = {
    "fast": Cluster.uniform("CPU core", 1, 8, inside="100GB/s 1us"),
    "slow": Cluster.uniform("CPU core", 1, 8, inside="1GB/s 20us"),
    "free": Cluster.uniform("CPU core", 1, 8, inside="1000GB/s 0us"),
}


@functools.cache
def workload_of(name: str) -> Workload:
    return Workload(zoo.make(name), zoo.batch_of(name, ROWS, 0), loss_fn=zoo.ZOO[name].loss_fn)


def setting_of(cluster: Cluster, ranks: int, **given: Any) -> Setting:
    mesh = {"tp": ranks}
    links = links_of(cluster, range(ranks), mesh)
    return Setting(mesh, links, cluster.device(0), torch.float32, ROWS, **given)


# Beside tactics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("name", MODELS)
def test_layouts_found_take_no_longer_than_megatrons(name: str, cluster: str) -> None:
    workload, setting = workload_of(name), setting_of(CLUSTERS[cluster], 2)
    found = find_layouts(workload, setting)
    tactics = [
        settled_s(SharedWorkload(workload, 2, sequence_parallel=sequence), setting) for sequence in (False, True)
    ]
    print(f"{name}, {cluster}: {found.seconds:.4e} s, settled {found.settled_s:.4e} s, Megatron's {tactics}")
    assert found.settled_s is not None
    assert found.settled_s <= min(tactics) * (1 + 1e-9)
    assert found.seconds == pytest.approx(found.settled_s, rel=0.01)
    assert found.gap < 0.02


@pytest.mark.parametrize("name", MODELS)
def test_a_completion_has_the_layouts_found(name: str) -> None:
    workload, setting = workload_of(name), setting_of(CLUSTERS["free"], 2)
    found = find_layouts(workload, setting)
    graph = ShardableGraph(workload.prepared, setting.mesh, workload.trainable)
    completion = Completion(graph, found.annotations())
    assert completion.not_followed == []
    divided = 0
    for node in graph.values:
        spec = found.specifications.get(completion.name(node))
        for entry, pieces in zip(spec or (), completion.layouts[node], strict=False):
            axes = tuple("tp" for _, of_piece in pieces for _ in of_piece)
            divided += bool(axes)
            assert entry is None or (isinstance(entry, Dim) and entry.axes == axes), node
    assert divided > 10


class Two(torch.nn.Module):
    """Two products, and what is between them."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.up = torch.nn.Linear(hidden, 4 * hidden, bias=False)
        self.down = torch.nn.Linear(4 * hidden, hidden, bias=False)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.down(self.up(x).relu()).square().mean()}


@pytest.mark.parametrize("hidden", [16, 64, 256])
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_no_annotations_are_better(hidden: int, cluster: str) -> None:
    """All layouts of a small model's parameters and results, completed and priced."""
    workload = Workload(Two(hidden), {"x": torch.ones(ROWS, 8, hidden)})
    setting = setting_of(CLUSTERS[cluster], 2, rows_over=("tp",))
    best, count = float("inf"), 0
    free = {name: range(dims + 1) for name, dims in {"up.weight": 2, "down.weight": 2, "linear": 3, "relu": 3}.items()}
    free["linear_1"] = range(4)
    for chosen in itertools.product(*free.values()):
        wishes = []
        for name, divided, dims in zip(free, chosen, (2, 2, 3, 3, 3), strict=True):
            spec = tuple(Dim(("tp",) if dim + 1 == divided else (), closed=True) for dim in range(dims))
            wishes.append(annotate(name, spec, priority=0))
        best = min(best, settled_s(SharedWorkload(workload, 2, annotations=wishes), setting))
        count += 1
    found = find_layouts(workload, setting)
    print(f"hidden {hidden}, {cluster}: {found.settled_s} of {best}, the best of {count}; {found.strategies}")
    assert found.settled_s is not None
    assert found.settled_s <= best * 1.01
    assert found.settled_s * (1 - found.gap) <= best * (1 + 1e-4)


def test_repeated_layers_share_their_variables() -> None:
    workload, setting = workload_of("gpt2"), setting_of(CLUSTERS["free"], 2)
    tied = LayoutModel(workload, setting)
    alone = LayoutModel(workload, dataclasses.replace(setting, clustered=False))
    assert len(tied.program.variables) < len(alone.program.variables) / 2
    both = [solve(one.program) for one in (tied, alone)]
    assert both[0] is not None
    assert both[1] is not None
    assert both[0].seconds == pytest.approx(both[1].seconds, rel=1e-3)
    assert both[1].seconds <= both[0].seconds * (1 + 1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_the_built_in_search_finds_as_good_ones(name: str) -> None:
    pytest.importorskip("scipy")
    workload, setting = workload_of(name), setting_of(CLUSTERS["fast"], 4)
    program = LayoutModel(workload, setting).program
    by_solver, by_search = solve(program, solver=True), solve(program, solver=False)
    assert by_solver is not None
    assert by_search is not None
    print(f"{name}: {by_solver.seconds} {by_solver.method}, {by_search.seconds}, gap {by_search.gap}")
    assert by_search.seconds * (1 - by_search.gap) <= by_solver.seconds * (1 + 1e-6)
    assert by_search.seconds == pytest.approx(by_solver.seconds, rel=1e-6)


# Two axes ------------------------------------------------------------------------------------------------------------


class Layers(torch.nn.Module):
    """Feed-forward layers with large parameters, all of which give gradients on."""

    def __init__(self, layers: int = 4, hidden: int = 256) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(
            torch.nn.ModuleList([torch.nn.Linear(hidden, 4 * hidden), torch.nn.Linear(4 * hidden, hidden)])
            for _ in range(layers)
        )
        self.shift = torch.nn.Parameter(torch.zeros(hidden))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = x + self.shift
        for up, down in self.layers:  # type: ignore[misc]
            x = x + down(up(x).relu())
        return {"loss": x.square().mean()}


def test_axes_are_not_taken_apart() -> None:
    """Each axis alone divides the batch best. Together one does, and the other one divides layers as Megatron does:
    half the rows are few enough for sums of activations to be smaller than those of parameters' gradients."""
    workload = Workload(Layers(), {"x": torch.ones(ROWS, 256)})
    cluster = Cluster.uniform("CPU core", 2, 4, inside="50GB/s 1us", between="10GB/s 2us")
    mesh = {"dp": 2, "tp": 4}

    def find(mesh: dict[str, int], devices: list[int]) -> FoundLayouts:
        links = links_of(cluster, devices, mesh)
        setting = Setting(mesh, links, cluster.device(0), torch.float32, 1536, tuple(mesh))
        return find_layouts(workload, setting)

    def divided(found: FoundLayouts, axis: str) -> set[str]:
        return {found.strategies[name].get(axis, "") for name in found.strategies if name.startswith("linear")}

    rows, columns, sums = "dimension 0 of the result", "dimension 1 of the result", "what it sums over"
    assert divided(find({"dp": 2}, [0, 4]), "dp") == {rows}
    assert divided(find({"tp": 4}, [0, 1, 2, 3]), "tp") == {rows}
    together = find(mesh, list(range(8)))
    print(together.explain())
    assert divided(together, "dp") == {rows}
    assert divided(together, "tp") == {columns, sums}
    assert together.gap == 0
    completion = Completion(ShardableGraph(workload.prepared, mesh), together.annotations())
    travels = {(one.kind, one.backward_kind, one.axis) for one in completion.reshards() if not one.parameter}
    assert travels == {  # rows between products lie on both axes: with Megatron's sums in two halves
        ("all-gather", "reduce-scatter", "tp"),
        ("reduce-scatter", "all-gather", "tp"),
        ("all-reduce", "", "tp"),
        ("all-reduce", "", "dp"),
    }


# Memory --------------------------------------------------------------------------------------------------------------


def test_less_memory_takes_longer_and_none_is_refused() -> None:
    workload, setting = workload_of("gpt2"), setting_of(CLUSTERS["slow"], 2)
    free = find_layouts(workload, setting)
    tight = find_layouts(workload, dataclasses.replace(setting, memory=0.8 * free.memory_bytes))
    assert tight.memory_bytes <= 0.8 * free.memory_bytes
    assert tight.seconds > free.seconds
    for solver in (True, False):
        if solver:
            pytest.importorskip("scipy")
        with pytest.raises(LayoutsDoNotFitError) as caught:
            find_layouts(workload, dataclasses.replace(setting, memory=0.1 * free.memory_bytes), solver=solver)
        text, error = str(caught.value), caught.value
        print(text)
        assert error.missing_bytes > 0
        assert error.operation in text
        assert f"{error.missing_bytes:.0f} bytes more than the limit" in text
        assert "transformer.wte.weight" in text or "MB)" in text


# Training ------------------------------------------------------------------------------------------------------------


def train(context: Context, name: str, plan: Plan, annotations: list[Any]) -> tuple[list[float], float | None]:
    batches = [zoo.batch_of(name, ROWS, step) for step in range(3)]
    engine = merak.parallelize(
        zoo.make(name),
        plan,
        batches[0],
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, eps=1e-4),
        loss_fn=zoo.ZOO[name].loss_fn,
        annotations=annotations,
    )
    losses = [engine.train_step(batch) for batch in batches]
    return losses, engine.eval_step(batches[0]).loss


def train_with_layouts(context: Context, name: str, cluster: str, plan: Plan) -> tuple[list[float], float | None]:
    found = find_layouts(workload_of(name), setting_of(CLUSTERS[cluster], 2))
    return train(context, name, plan, found.annotations())


@pytest.mark.parametrize(
    ("name", "cluster"),
    [
        ("gpt2", "fast"),
        pytest.param("gpt2", "free", marks=pytest.mark.slow),
        pytest.param("llama", "fast", marks=pytest.mark.slow),
    ],
)
def test_training_has_the_losses_of_one_process(run: Runner, name: str, cluster: str) -> None:
    ((expected, evaluated),) = run(train, name, Plan(microbatches=2), [], world_size=1)
    for plan in (Plan(tp=2, microbatches=2), Plan(tp=2, pp=2, microbatches=2)):
        for losses, loss in run(train_with_layouts, name, cluster, plan, world_size=plan.world_size):
            assert losses == pytest.approx(expected, rel=1e-5)
            assert loss == pytest.approx(evaluated, rel=1e-5)


def test_layouts_for_another_mesh_are_refused() -> None:
    found = find_layouts(workload_of("gpt2"), setting_of(CLUSTERS["free"], 2))
    with pytest.raises(ValueError, match="layouts were found for a mesh"):
        Completion(ShardableGraph(workload_of("gpt2").prepared, {"tp": 4}), found.annotations())


# In the search for plans ---------------------------------------------------------------------------------------------


def test_a_search_with_layouts_is_never_worse() -> None:
    name, cluster = "gpt2", CLUSTERS["fast"]
    prices = Prices(workload_of(name), cluster)
    for pinned in ({"tp": 2, "pp": 1}, {"tp": 4, "dp": 1, "pp": 2}, {"tp": 1}):
        search = Search(prices, 16, None, pinned, print)
        plain = search.run()
        found = with_layouts(plain, search)
        print(pinned, plain.best.step_s, found.best.step_s, found.annotations)
        assert found.best.step_s <= plain.best.step_s
        assert (found.best.step_s < plain.best.step_s) == bool(found.annotations)
        if pinned == {"tp": 1}:
            assert found is plain


def test_layouts_by_width_leave_other_widths_alone() -> None:
    workload = workload_of("gpt2")
    tactic = by_width({2: find_layouts(workload, setting_of(CLUSTERS["fast"], 2))})
    assert tactic(ShardableGraph(workload.prepared, {"tp": 4})) == []
    assert len(tactic(ShardableGraph(workload.prepared, {"tp": 2}))) > 10
