"""merak.redistribute against a single process that has everything, and against DTensor where it can."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor

import merak
from merak import _torch_compat
from tests.backend.harness import Context
from tests.resharding import reference

Runner = Callable[..., list[Any]]
CASES = int(os.environ.get("MERAK_TEST_EXAMPLES", "300"))
AT_ONCE = 25
RANKS = 6


def mesh(*ranks: Any) -> DeviceMesh:
    return DeviceMesh("cpu", torch.tensor(ranks), _init_backend=False)


# Random cases --------------------------------------------------------------------------------------------------------


def random_cases(context: Context, seed: int, count: int) -> int:
    random = reference.RandomCases(seed, context.world_size)
    moved = 0
    for number in range(count):
        case = random.draw()
        x = reference.source(case.parts, case.source, context.rank)
        before = x.to_local().clone()
        apart = random.random.random() < 0.3  # ranks outside both meshes do not take part
        members = {*case.source.mesh.flatten().tolist(), *case.target.mesh.flatten().tolist()}
        if apart and context.rank not in members:
            continue
        work = merak.redistribute(x, case.target.device_mesh(), case.target.placements, dtype=case.dtype, async_op=True)
        y = work.result()
        text = f"seed {seed}, case {number}: {case}"
        assert y.device_mesh == case.target.device_mesh(), text
        assert tuple(y.placements) == case.target.placements, text
        assert y.shape == case.parts[0].shape, text
        expected = case.expected(context.rank)
        assert y.dtype == expected.dtype, text
        assert y.to_local().shape == expected.shape, text
        assert torch.equal(y.to_local(), expected), text
        assert torch.equal(x.to_local(), before), text
        moved += 1
    return moved


@pytest.mark.parametrize("seed", range(CASES // AT_ONCE))
def test_random_cases(run: Runner, seed: int) -> None:
    assert max(run(random_cases, seed, AT_ONCE, world_size=RANKS, deadline=120)) > 0


# What the reference says is what DTensor says ------------------------------------------------------------------------


def as_dtensor_cuts(context: Context) -> None:
    whole = torch.arange(7 * 5 * 6).reshape(7, 5, 6)
    for sizes in ((4,), (2, 2)):
        device_mesh = init_device_mesh("cpu", sizes)
        options: list[Placement] = [Replicate(), Shard(0), Shard(1), Shard(2)]
        for first in options:
            for second in options if len(sizes) == 2 else options[:1]:
                placements = (first, second)[: len(sizes)]
                theirs = distribute_tensor(whole, device_mesh, placements).to_local()
                layout = reference.Layout(device_mesh.mesh, placements)
                assert torch.equal(theirs, reference.local(whole, layout, context.rank))


def test_the_reference_cuts_as_dtensor(run: Runner) -> None:
    run(as_dtensor_cuts, world_size=4)


def fsdp_and_tensor_parallel(context: Context) -> None:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    both = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(10, 14), torch.nn.Linear(14, 6))
    whole = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    parallelize_module(model, both["tp"], {"0": ColwiseParallel(), "1": RowwiseParallel()})
    fully_shard(model, mesh=both["dp"])
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, DTensor)
        with torch.no_grad():
            y = merak.redistribute(parameter, mesh(3, 1), [Replicate()])
        if context.rank in (1, 3):
            assert torch.equal(y.to_local(), whole[name]), name


def test_parameters_of_fsdp2_with_tensor_parallelism(run: Runner) -> None:
    run(fsdp_and_tensor_parallel, world_size=4)


def other_orders(context: Context) -> None:
    from torch.distributed.tensor._dtensor_spec import DTensorSpec, ShardOrderEntry, TensorMeta

    whole = torch.arange(23 * 4.0).reshape(23, 4)
    device_mesh = mesh([0, 1], [2, 3])
    # Mesh dimension 1 cuts first: rank (i, j) has part i of part j.
    part = whole.chunk(2)[context.rank % 2].chunk(2)[context.rank // 2]
    spec = DTensorSpec(
        device_mesh,
        (Shard(0), Shard(0)),
        tensor_meta=TensorMeta(whole.shape, whole.stride(), whole.dtype),
        shard_order=(ShardOrderEntry(tensor_dim=0, mesh_dims=(1, 0)),),
        use_strided_shard_as_shard_order=False,
    )
    x = DTensor(part, spec, requires_grad=False)  # type: ignore[call-arg]
    y = merak.redistribute(x, mesh(2), [Replicate()])
    if context.rank == 2:
        assert torch.equal(y.to_local(), whole)


@pytest.mark.skipif(_torch_compat.torch_minor() < "2.15", reason="an order of shards came with torch 2.15")
def test_dimensions_that_are_not_cut_from_left_to_right(run: Runner) -> None:
    run(other_orders, world_size=4)


# Arguments -----------------------------------------------------------------------------------------------------------


def into_out(context: Context) -> None:
    whole = torch.arange(24.0).reshape(6, 4)
    x = reference.source([whole], reference.Layout(torch.tensor([0, 1]), (Shard(0),)), context.rank)
    layout = reference.Layout(torch.tensor([1, 2]), (Shard(1),))
    out = reference.source([torch.zeros(6, 4, dtype=torch.bfloat16)], layout, context.rank)
    y = merak.redistribute(x, layout.device_mesh(), ["S(-1)"], dtype=torch.bfloat16, out=out)
    assert y is out
    assert torch.equal(out.to_local(), reference.local(whole.bfloat16(), layout, context.rank))
    conjugate = torch.zeros(4, dtype=torch.complex64).conj()
    merak.reshard_state_dict(
        {"z": torch.full((4,), 1 + 2j)} if context.rank == 0 else None, {"z": conjugate} if context.rank == 1 else None
    )
    assert context.rank != 1 or torch.equal(conjugate, torch.full((4,), 1 + 2j))
    # A rank's own part, written over while it is read.
    same = reference.source(
        [whole], reference.Layout(torch.tensor([[0], [1], [2]]), (Shard(0), Replicate())), context.rank
    )
    merak.redistribute(same, same.device_mesh, same.placements, out=same)
    assert torch.equal(same.to_local(), whole.chunk(3)[context.rank])


def test_out(run: Runner) -> None:
    run(into_out, world_size=3)


def not_contiguous(context: Context) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    turned = whole.t().contiguous().t()[:4]  # strides (1, 4)
    x = _torch_compat.make_dtensor(turned, mesh(0), [Replicate()], whole.shape)
    y = merak.redistribute(x, mesh(1), [Replicate()])
    if context.rank == 1:
        assert torch.equal(y.to_local(), whole)


def test_a_source_that_is_not_contiguous(run: Runner) -> None:
    run(not_contiguous)


def several_at_once(context: Context) -> None:
    whole = [torch.full((300, 300), float(number)) for number in range(6)]
    layout = reference.Layout(torch.tensor([0, 1]), (Shard(0),))
    works = []
    for number in range(6):
        x = reference.source([whole[number]], layout, context.rank)
        works.append(merak.redistribute(x, mesh(1, 2), [Shard(1)], async_op=True))
    for number, work in reversed(list(enumerate(works))):
        work.wait()
        assert work.is_completed()
        assert work.is_success()
        (future,) = (work.get_future().wait(),)
        assert torch.equal(future.to_local(), work.result().to_local())
        if context.rank > 0:
            assert torch.equal(work.result().to_local(), whole[number][:, :150])


def test_asynchronous_ones(run: Runner) -> None:
    run(several_at_once, world_size=3)


def first_waited_for_without_gradients(context: Context) -> None:
    mine = torch.ones(2, 3, requires_grad=True)
    x = DTensor.from_local(mine, mesh(0, 1), [Shard(0)], run_check=False)
    work = merak.redistribute(x, mesh(1, 0), [Replicate()], async_op=True)
    with torch.no_grad():
        work.wait()
    y = work.result()
    assert y.requires_grad
    y.backward(
        reference.source([torch.full((4, 3), 2.0)], reference.Layout(y.device_mesh.mesh, (Replicate(),)), context.rank)
    )
    assert mine.grad is not None
    assert torch.equal(mine.grad, torch.full((2, 3), 2.0))


def test_a_gradient_does_not_depend_on_where_it_is_waited_for(run: Runner) -> None:
    run(first_waited_for_without_gradients)


def in_inference_mode(context: Context) -> None:
    layout = reference.Layout(torch.tensor([0]), (Replicate(),))
    with torch.inference_mode():
        x = reference.source([torch.ones(4)], layout, context.rank)
        y = merak.redistribute(x, mesh(0, 1), [Partial()])
        assert torch.equal(y.to_local(), torch.full((4,), 1.0 - context.rank))


def test_inference_mode(run: Runner) -> None:
    run(in_inference_mode)


# Gradients -----------------------------------------------------------------------------------------------------------


def gradients(context: Context, placements: list[Placement], target: list[Placement]) -> None:
    whole = torch.arange(30.0).reshape(5, 6)
    weight = torch.linspace(-2, 3, 30).reshape(5, 6)
    from_layout = reference.Layout(torch.tensor([0, 1]), tuple(placements))
    to_layout = reference.Layout(torch.tensor([3, 1, 2]), tuple(target))
    mine = reference.local(whole, from_layout, context.rank).requires_grad_()
    x = DTensor.from_local(
        mine, from_layout.device_mesh(), placements, shape=whole.shape, stride=whole.stride(), run_check=False
    )
    y = merak.redistribute(x, to_layout.device_mesh(), target, dtype=torch.float64)
    assert y.requires_grad
    y.backward(reference.source([weight.double()], to_layout, context.rank))
    assert mine.grad is not None
    assert mine.grad.dtype == torch.float32
    if context.rank < 2:
        assert torch.equal(mine.grad, reference.local(weight, from_layout, context.rank))


@pytest.mark.parametrize("source", [Shard(0), Shard(1), Replicate(), Partial()])
@pytest.mark.parametrize("target", [Shard(0), Replicate()])
def test_the_gradient_goes_the_way_back(run: Runner, source: Placement, target: Placement) -> None:
    run(gradients, [source], [target], world_size=4)


# Bad input -----------------------------------------------------------------------------------------------------------


def refused(context: Context) -> None:
    whole = torch.zeros(4, 6)
    x = reference.source([whole], reference.Layout(torch.tensor([0, 1]), (Shard(0),)), context.rank)
    other = mesh(1, 2)
    bad: list[tuple[str, Callable[[], Any]]] = [
        ("has to be a DTensor", lambda: merak.redistribute(whole, other, [Shard(0)])),  # type: ignore[call-overload]
        ("has to be a DeviceMesh", lambda: merak.redistribute(x, [1, 2], [Shard(0)])),  # type: ignore[call-overload]
        ("of a tensor of 2 dimensions", lambda: merak.redistribute(x, other, [Shard(2)])),
        ("2 placements for a mesh of 1", lambda: merak.redistribute(x, other, [Shard(0), Shard(1)])),
        ("is no placement", lambda: merak.redistribute(x, other, ["Q"])),
        ("no factors", lambda: merak.redistribute(x, other, [Partial("product")])),
        ("out= is", lambda: merak.redistribute(x, other, [Shard(0)], out=x)),
    ]
    for text, call in bad:
        with pytest.raises(ValueError, match=text):
            call()
    y = merak.redistribute(x, other, [Shard(1)])  # the group works on
    if context.rank > 0:
        assert torch.equal(y.to_local(), whole[:, :3])


def test_bad_arguments_are_refused_and_the_group_goes_on(run: Runner) -> None:
    run(refused, world_size=3)


def unequal(context: Context, what: str) -> tuple[str, str]:
    differs = context.rank == 1
    shape = (4, 8) if what == "shape" and differs else (4, 6)
    sources = Shard(1) if what == "source" and differs else Shard(0)
    layout = reference.Layout(torch.tensor([0, 1]), (sources,))
    x = reference.source([torch.zeros(shape)], layout, context.rank)
    targets: list[Placement] = [Replicate() if what == "target" and differs else Shard(0)]
    dtype = {"dtype": torch.bfloat16, "wider dtype": torch.float64}.get(what) if differs else None
    if what == "invalid" and differs:
        targets = [Shard(5)]
    try:
        merak.redistribute(x, mesh(2, 1), targets, dtype=dtype)
    except (dist.DistBackendError, ValueError) as error:
        return type(error).__name__, str(error)
    finally:  # who has heard of it leaves when the others have, too
        context.store.add("heard", 1)
        while context.store.add("heard", 0) < context.world_size:
            time.sleep(0.01)
    return "nothing", ""


@pytest.mark.parametrize("what", ["shape", "source", "target", "dtype", "wider dtype", "invalid"])
def test_ranks_that_ask_for_different_things_all_hear_of_it(run: Runner, what: str) -> None:
    errors = run(unequal, what, world_size=3)
    if what == "invalid":
        assert errors[1][0] == "ValueError"
        assert all(kind == "DistBackendError" and "rank 1" in text for kind, text in (errors[0], errors[2]))
        return
    assert all(kind == "DistBackendError" for kind, _ in errors), errors
    assert all("rank 1 was given other" in text and "Nothing has been moved" in text for _, text in errors), errors


def other_meshes(context: Context) -> tuple[str, float]:
    x = reference.source([torch.zeros(4)], reference.Layout(torch.tensor([0, 1]), (Shard(0),)), context.rank)
    start = time.monotonic()
    try:
        merak.redistribute(x, mesh(2, 3) if context.rank != 1 else mesh(0, 2), [Shard(0)])
    except (dist.DistBackendError, dist.DistNetworkError) as error:
        return str(error), time.monotonic() - start
    return "", time.monotonic() - start


def test_ranks_that_name_other_meshes_do_not_wait_for_each_other(run: Runner) -> None:
    outcomes = run(other_meshes, world_size=4)
    texts = [text for text, _ in outcomes]
    assert any("name the same meshes" in text for text in texts), texts
    assert all(texts), texts
    assert all(seconds < 20 for _, seconds in outcomes), outcomes


def long_waits(context: Context) -> None:
    """Ranks that wait for long, and in vain for nobody: rank 1 comes late to both groups."""
    layout = reference.Layout(torch.tensor([0]), (Replicate(),))
    x = reference.source([torch.ones(4)], layout, context.rank)
    for _ in range(2):
        if context.rank < 2:
            time.sleep(8 * context.rank)
            first = merak.redistribute(x, mesh(1), [Replicate()], async_op=True)
            if context.rank == 1:
                first.wait()
        y = merak.redistribute(x, mesh(2, 1), [Replicate()])
        if context.rank < 2:
            first.wait()
        assert context.rank == 0 or torch.equal(y.to_local(), torch.ones(4))


def test_ranks_that_wait_for_long_are_left_alone(run: Runner) -> None:
    run(long_waits, world_size=3)


def wrong_local(context: Context) -> str:
    mine = torch.zeros(3 if context.rank == 1 else 2, 6)
    x = _torch_compat.make_dtensor(mine, mesh(0, 1), [Shard(0)], torch.Size((4, 6)))
    with pytest.raises(dist.DistBackendError) as caught:
        merak.redistribute(x, mesh(2), [Replicate()])
    return str(caught.value)


def test_a_local_tensor_that_does_not_fit_its_layout_is_named_on_all_ranks(run: Runner) -> None:
    for text in run(wrong_local, world_size=3):
        assert "rank 1 cannot take part" in text
        assert "(3, 6)" in text


def a_late_rank(context: Context) -> str:
    x = reference.source([torch.zeros(400, 400)], reference.Layout(torch.tensor([0]), (Replicate(),)), context.rank)
    plan = merak.plan_reshard({"the weight": ((400, 400), torch.float32, [0], ["R"], [1], ["R"])}, max_staging=1 << 20)
    if context.rank == 0:
        context.store.get("gone")
        return ""
    try:
        plan.run(None, {"the weight": torch.empty(400, 400)}, timeout=datetime.timedelta(seconds=1))
    except dist.DistBackendError as error:
        return str(error)
    finally:
        context.store.set("gone", "")
    del x
    return ""


def test_a_deadline_names_who_is_late(run: Runner) -> None:
    text = run(a_late_rank)[1]
    assert "rank 0" in text
    assert "timeout" in text
