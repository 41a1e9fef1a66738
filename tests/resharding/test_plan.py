"""merak.plan_reshard: plans in hand, without other ranks; and carried out."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import Partial, Replicate, Shard

import merak
from merak.resharding import ReshardPlan, Topology
from tests.backend.harness import Context
from tests.resharding import reference

Runner = Callable[..., list[Any]]

TENSORS: dict[str, Any] = {
    "a": ((8, 6), torch.float32, [[0, 1], [2, 3]], ["S(0)", "R"], [4, 5, 6], ["S(1)"]),
    "b": ((5,), (torch.float32, torch.bfloat16), [0, 2], [Shard(0)], [[5, 1]], [Replicate(), Shard(-1)]),
    "sum": ((3, 4), torch.float32, [0, 1, 2], [Partial()], [6], ["R"]),
    "mean": ((3, 4), (torch.float64, torch.float32), [3, 1], [Partial("avg")], [0, 4], ["S(0)"]),
}
TOPOLOGY = Topology.uniform(4, 2, 12e6)


def plan() -> ReshardPlan:
    return merak.plan_reshard(TENSORS, TOPOLOGY)


def test_it_is_explained() -> None:
    text = str(plan())
    assert "4 tensors" in text
    assert "8 ranks on 4 hosts" in text
    assert "lower bound" in text
    assert "part 1 of 2" in text, "fp64 is averaged by itself"
    assert "<-" in text
    assert "has to come in" in text
    assert "0 + " in text or "+ 0" in text, "the chain that adds up"
    assert "in transfers" not in text
    one = merak.plan_reshard({"w": ((4, 4), torch.float32, [0], ["R"], [0], ["R"])}, TOPOLOGY)
    assert "Nothing has to travel" in one.explain()


def test_the_model_never_goes_below_the_bound() -> None:
    assert 0 < plan().lower_bound_s <= plan().seconds


def test_the_same_arguments_give_the_same_object() -> None:
    assert plan() is plan()
    assert merak.plan_reshard(TENSORS, Topology.uniform(8, 1)) is not plan()


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    plan().save(tmp_path / "plan.json")
    loaded = ReshardPlan.load(tmp_path / "plan.json")
    assert loaded.moves == plan().moves
    assert loaded.topology == TOPOLOGY
    assert loaded.planned.plans() == plan().planned.plans()
    assert loaded.explain() == plan().explain()


def transfers(facts: dict[str, Any]) -> list[Any]:
    found: list[Any] = facts["plans"][0][0]
    return found


def broken(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(json.dumps(copy.deepcopy(plan().to_json())))
    change(facts)
    return facts


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda facts: facts.update(version=99), "version 99"),
        (lambda facts: facts.pop("layouts"), "layouts"),
        (lambda facts: transfers(facts).pop(), "lacks"),
        (lambda facts: transfers(facts)[0].__setitem__(0, 10**6), "no bucket"),
        (lambda facts: transfers(facts)[0].__setitem__(3, 0), "segments"),
        (lambda facts: transfers(facts)[0].__setitem__(4, []), "a sender holds nothing"),
        (lambda facts: transfers(facts)[0].__setitem__(4, [77]), "a sender holds nothing"),
        (lambda facts: transfers(facts)[0].__setitem__(5, [[0, 99]]), "does not have|99"),
        (lambda facts: facts["plans"][0][1].__setitem__(3, 0), "in flight"),
        (lambda facts: facts["topology"].update(host_of=[0]), "rank"),
        (lambda facts: facts["topology"].update(host_of=[9] * 8), "host 9"),
        (lambda facts: facts["tensors"][0].__setitem__(4, 99), "IndexError"),
        (lambda facts: facts["tensors"][0].__setitem__(2, "float33"), "float33"),
        (lambda facts: facts.update(plans=[]), "parts"),
        (lambda facts: facts.update(max_staging=3), "staging"),
    ],
)
def test_a_broken_file_is_refused(change: Callable[[dict[str, Any]], Any], text: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(broken(change)))
    with pytest.raises(ValueError, match=text):
        ReshardPlan.load(path)


def test_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(ValueError, match=r"plan\.json is no plan"):
        ReshardPlan.load(tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (((4,), torch.float32, [0, 0], ["R"], [1], ["R"]), "twice"),
        (((4,), torch.float32, [0], ["R"], [9], ["R"]), "rank 9"),
        (((4,), torch.float32, [0], ["S(1)"], [1], ["R"]), "dimension 1"),
        (((4,), torch.float32, [0], ["R", "R"], [1], ["R"]), "2 placements"),
        (((4,), torch.float32, [0], ["P(sum)"], [1], ["P(max)"]), "partial"),
        (((-4,), torch.float32, [0], ["R"], [1], ["R"]), "shape"),
        (((4,), "float32", [0], ["R"], [1], ["R"]), "no dtype"),
        (((4,), torch.quint8, [0], ["R"], [1], ["R"]), "quint8"),
        (((4,), torch.float32, [[0, 1], [2]], ["R"], [1], ["R"]), "a mesh is"),
        (((4,), torch.float32, [0.5], ["R"], [1], ["R"]), "whole numbers"),
        (((4,), torch.float32, [0], ["R"]), "expected"),
        (((1 << 62,), torch.float32, [0], ["R"], [1], ["R"]), "2\\^62"),
        (((4,), torch.int32, [0, 1], ["P(avg)"], [1], ["R"]), "int32"),
    ],
)
def test_bad_moves_are_refused_by_name(fields: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        merak.plan_reshard({"the weight": fields}, TOPOLOGY)
    assert "the weight" in str(caught.value) or text == "int32"


def test_too_little_staging_is_refused() -> None:
    with pytest.raises(ValueError, match="staging"):
        merak.plan_reshard(TENSORS, TOPOLOGY, max_staging=10)


def test_a_topology_is_checked() -> None:
    with pytest.raises(ValueError, match="bandwidth"):
        Topology.uniform(2, 2, bandwidth=0.0)
    with pytest.raises(ValueError, match="host 3"):
        Topology((0, 3), ((1e6, 1e6, 1e6),))
    with pytest.raises(ValueError, match="host_of"):
        Topology.from_json({"hosts": []})
    assert Topology.from_json(json.loads(json.dumps(TOPOLOGY.to_json()))) == TOPOLOGY


def test_without_tensors_there_is_nothing_to_do() -> None:
    empty = merak.plan_reshard({}, TOPOLOGY)
    assert empty.seconds == 0
    assert "0 tensors" in str(empty)


def test_it_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plan().picture(tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


# Carried out ---------------------------------------------------------------------------------------------------------


def layouts_of(name: str) -> tuple[reference.Layout, reference.Layout, torch.dtype, torch.dtype]:
    _, dtypes, source_mesh, source_placements, target_mesh, target_placements = TENSORS[name]
    placed = [
        tuple(merak.resharding.layouts.placement_from(p) if isinstance(p, str) else p for p in placements)
        for placements in (source_placements, target_placements)
    ]
    placed[1] = tuple(Shard(0) if p == Shard(-1) else p for p in placed[1])
    source, target = dtypes if isinstance(dtypes, tuple) else (dtypes, dtypes)
    return (
        reference.Layout(torch.tensor(source_mesh), placed[0]),
        reference.Layout(torch.tensor(target_mesh), placed[1]),
        source,
        target,
    )


def run_plan(context: Context, path: str | None, cap: int) -> None:
    made = plan() if path is None else ReshardPlan.load(path)
    if cap:
        made = merak.plan_reshard(TENSORS, TOPOLOGY, max_staging=cap)
    assert made.staging_bytes(context.rank) <= (cap or merak.resharding.plan.DEFAULT_MAX_STAGING)
    src, dst, expected = {}, {}, {}
    for name, (shape, *_) in TENSORS.items():
        source, target, source_dtype, target_dtype = layouts_of(name)
        parts = [
            reference.RandomCases.values(shape, source_dtype, number)
            for number in range(reference.contributors(source))
        ]
        case = reference.Case(parts, source, target, target_dtype)
        if source.place(context.rank) is not None:
            x = reference.source(parts, source, context.rank)
            src[name] = x if name == "a" else x.to_local()  # either will do
        if target.place(context.rank) is not None:
            expected[name] = case.expected(context.rank)
            dst[name] = torch.full_like(expected[name], 77)
    for _ in range(2):
        for tensor in dst.values():
            tensor.fill_(77)
        work = made.run(src | {"more": torch.zeros(1)}, dst, async_op=True)
        assert work is not None
        work.wait()
        for name, tensor in dst.items():
            assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("cap", [0, 96, 1024])
def test_it_is_carried_out_as_often_as_anyone_likes(run: Runner, cap: int) -> None:
    run(run_plan, None, cap, world_size=8)


def test_a_loaded_plan_is_carried_out(run: Runner, tmp_path: Path) -> None:
    plan().save(tmp_path / "plan.json")
    run(run_plan, str(tmp_path / "plan.json"), 0, world_size=8)


def wrong_tensors(context: Context, what: str) -> str:
    made = merak.plan_reshard({"w": ((4, 6), torch.float32, [0], ["S(0)"], [1], ["R"])}, Topology.uniform(2, 1))
    src: dict[str, torch.Tensor] = {"w": torch.zeros(4, 6)}
    dst: dict[str, torch.Tensor] = {"w": torch.zeros(4, 6)}
    if what == "missing":
        src = {}
    elif what == "dtype":
        dst = {"w": torch.zeros(4, 6, dtype=torch.float64)}
    elif what == "shape":
        src = {"w": torch.zeros(6, 4)}
    elif what == "ranks":
        src = {
            "w": reference.source([torch.zeros(4, 6)], reference.Layout(torch.tensor([1]), (Shard(0),)), context.rank)
        }
        src["w"] = (
            src["w"]
            if context.rank == 1
            else reference.source(
                [torch.zeros(4, 6)], reference.Layout(torch.tensor([0]), (Replicate(),)), context.rank
            )
        )
    elif what == "sparse":
        src = {"w": torch.zeros(4, 6).to_sparse()}
    elif what == "type":
        src = {"w": [1.0]}  # type: ignore[dict-item]
    with pytest.raises(dist.DistBackendError) as caught:
        made.run(src if context.rank == 0 else None, dst if context.rank == 1 else None)
    return str(caught.value)


@pytest.mark.parametrize("what", ["missing", "dtype", "shape", "ranks", "sparse", "type"])
def test_tensors_that_do_not_fit_are_named_on_all_ranks(run: Runner, what: str) -> None:
    for text in run(wrong_tensors, what):
        assert f"rank {1 if what == 'dtype' else 0} cannot take part" in text


def wrong_group(context: Context) -> None:
    with pytest.raises(ValueError, match="for 8 ranks, the group has 2"):
        plan().run(None, None)


def test_a_plan_for_another_number_of_ranks_is_refused(run: Runner) -> None:
    run(wrong_group)


def in_a_subgroup(context: Context) -> None:
    group = dist.new_group([1, 3])
    if context.rank not in (1, 3):
        return
    made = merak.plan_reshard({"w": ((4,), torch.float32, [3], ["R"], [1], ["R"])}, group=group)
    w = torch.full((4,), float(context.rank))
    made.run({"w": w}, {"w": w}, group=group)
    assert torch.equal(w, torch.full((4,), 3.0))
    with pytest.raises(ValueError, match="rank 2 is not in the group"):
        merak.plan_reshard({"w": ((4,), torch.float32, [2], ["R"], [1], ["R"])}, group=group)


def test_meshes_of_a_subgroup_name_global_ranks(run: Runner) -> None:
    run(in_a_subgroup, world_size=4)


def measured(context: Context) -> Topology:
    topology = merak.resharding.calibrate()
    assert topology == Topology.of_group()
    assert topology.hosts != Topology.usual([0] * context.world_size).hosts
    return topology


def test_calibrating_gives_all_ranks_the_same_numbers(run: Runner) -> None:
    topologies = run(measured, world_size=3)
    assert len(set(topologies)) == 1
