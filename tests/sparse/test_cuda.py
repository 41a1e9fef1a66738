"""merak.sparse.all_reduce of CUDA tensors, beside the same calls on CPU tensors.

    python -m pytest -m cuda tests

Skipped where there is no GPU. Uses as many GPUs as there are, up to four, one for each rank.
"""

from __future__ import annotations

import datetime
from typing import Any, get_args

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import merak.sparse
from tests.backend.conftest import BACKEND
from tests.backend.harness import Context, RankPool
from tests.sparse.test_all_reduce import DTYPES, contribution

GPUS = torch.cuda.device_count()
SIZES = range(1, min(GPUS, 4) + 1)
METHODS = tuple(method for method in get_args(merak.sparse.Method) if not method.startswith("sketch"))
SHAPES: tuple[tuple[tuple[int, ...], int], ...] = (((60, 33), 1), ((12, 9, 5), 2), ((200,), 1), ((70_000, 3), 1))

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(GPUS == 0, reason="needs a GPU")]


def same_bits(on_gpu: torch.Tensor, on_cpu: torch.Tensor) -> None:
    assert on_gpu.is_cuda
    assert on_gpu.layout == on_cpu.layout
    if on_cpu.layout == torch.sparse_coo:
        assert on_gpu.is_coalesced()
        assert torch.equal(on_gpu.indices().cpu(), on_cpu.indices())
    torch.testing.assert_close(on_gpu.cpu().to_dense(), on_cpu.to_dense(), rtol=0, atol=0)


def both_devices(context: Context, method: str, dtype: torch.dtype) -> None:
    torch.cuda.set_device(context.rank)
    for seed, (shape, sparse_dim) in enumerate(SHAPES):
        coo = contribution(seed, context.rank, shape, sparse_dim, dtype)
        for x in (coo, coo.to_dense(), coo.to_dense().t() if len(shape) == 2 else coo):
            ops = (dist.ReduceOp.SUM, dist.ReduceOp.AVG) if dtype.is_floating_point else (dist.ReduceOp.SUM,)
            for op in ops:
                y = merak.sparse.all_reduce(x.cuda(), op, method=method)  # type: ignore[arg-type]
                same_bits(y, merak.sparse.all_reduce(x, op, method=method))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", SIZES)
def test_sums_are_those_of_cpus(pool: RankPool, size: int, method: str, dtype: torch.dtype) -> None:
    pool.run(both_devices, method, dtype, world_size=size, backend=BACKEND, deadline=180)


def floats(context: Context) -> bytes:
    """Sums in the order of ranks, whatever the device."""
    torch.cuda.set_device(context.rank)
    random = torch.Generator().manual_seed(context.rank)
    x = torch.sparse_coo_tensor(
        torch.randint(0, 50, (1, 80), generator=random), torch.randn(80, 33, generator=random), (50, 33)
    )
    y = merak.sparse.all_reduce(x.cuda(), method="balanced")
    same_bits(y, merak.sparse.all_reduce(x, method="balanced"))
    return y.cpu().to_dense().numpy().tobytes()


@pytest.mark.parametrize("size", SIZES)
def test_floats_are_the_same_bits_everywhere(pool: RankPool, size: int) -> None:
    assert len(set(pool.run(floats, world_size=size, backend=BACKEND))) == 1


def sketches(context: Context, dtype: torch.dtype, feedback: bool) -> None:
    torch.cuda.set_device(context.rank)
    for seed, (shape, sparse_dim) in enumerate(SHAPES):
        codecs = [merak.sparse.SketchCodec(6 * 8 * shape[-1], seed, feedback) for _ in range(4)]
        for step in range(3):
            coo = contribution(10 * seed + step, context.rank, shape, sparse_dim, dtype)
            for x, on_gpu, on_cpu in ((coo, *codecs[:2]), (coo.to_dense(), *codecs[2:])):
                y = merak.sparse.all_reduce(x.cuda(), method="sketch", codec=on_gpu)
                same_bits(y, merak.sparse.all_reduce(x, method="sketch", codec=on_cpu))
                if feedback:
                    assert on_gpu.residual is not None
                    assert on_cpu.residual is not None
                    same_bits(on_gpu.residual, on_cpu.residual)
                on_gpu.load_state_dict({key: value.cpu() for key, value in on_gpu.state_dict().items()})


@pytest.mark.parametrize("feedback", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_sketches_are_those_of_cpus(pool: RankPool, size: int, dtype: torch.dtype, feedback: bool) -> None:
    pool.run(sketches, dtype, feedback, world_size=size, backend=BACKEND, deadline=180)


def calls_of_all_kinds(context: Context) -> None:
    torch.cuda.set_device(context.rank)
    coo = contribution(3, context.rank, (60, 33), 1, torch.float32)
    expected = merak.sparse.all_reduce(coo)
    inputs = [coo.cuda(), coo.to_dense().cuda()]
    for y in merak.sparse.all_reduce_coalesced(inputs):  # type: ignore[union-attr]
        torch.testing.assert_close(y.cpu().to_dense(), expected.to_dense(), rtol=0, atol=0)  # type: ignore[union-attr]

    in_place = coo.cuda()
    dist.all_reduce(in_place)
    same_bits(in_place, expected)

    x = coo.cuda()
    works = []
    for turn in range(4):  # beside dense collectives, on streams of their own
        with torch.cuda.stream(torch.cuda.Stream()):
            works.append(merak.sparse.all_reduce(x, async_op=True))
            ones = torch.ones(100_000, device="cuda")
            dense = dist.all_reduce(ones, async_op=True)
            dense.wait()
            assert bool((ones == context.world_size).all()), turn
    for work in works:
        work.wait(datetime.timedelta(seconds=60))
        assert work.is_completed()
        same_bits(work.result()[0], expected)
        same_bits(work.get_future().wait()[0], expected)

    assert merak.sparse.explain(x) == merak.sparse.explain(coo)
    with pytest.raises(ValueError, match="'sketch-exact' takes tensors on CPU"):
        merak.sparse.all_reduce(x, method="sketch-exact")
    same_bits(merak.sparse.all_reduce(x), expected)


@pytest.mark.parametrize("size", SIZES)
def test_calls_of_all_kinds(pool: RankPool, size: int) -> None:
    pool.run(calls_of_all_kinds, world_size=size, backend=BACKEND, deadline=180)


def disagreeing(context: Context, what: str) -> str:
    torch.cuda.set_device(context.rank)
    x = torch.ones(5 + (what == "rows" and context.rank == 1), 2, device="cuda")
    if what == "device" and context.rank == 1:
        x = x.cpu()
    with pytest.raises(dist.DistBackendError) as caught:
        merak.sparse.all_reduce(x)
    return str(caught.value)


@pytest.mark.skipif(GPUS < 2, reason="needs two GPUs")
@pytest.mark.parametrize(("what", "said"), [("rows", "same shape"), ("device", "one kind of device")])
def test_ranks_that_do_not_fit_together_are_all_told(pool: RankPool, what: str, said: str) -> None:
    for text in pool.run(disagreeing, what, world_size=2, backend=BACKEND):
        assert said in text


def embedding_step(context: Context, device: str) -> Any:
    """The table after three steps of DDP with sparse gradients."""
    if device == "cuda":
        torch.cuda.set_device(context.rank)
    torch.manual_seed(0)
    table = torch.nn.Embedding(50, 8, sparse=True, dtype=torch.float64)
    layers = torch.nn.Sequential(table, torch.nn.Flatten(), torch.nn.Linear(32, 3, dtype=torch.float64))
    model = DistributedDataParallel(layers.to(device))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        ids = torch.randint(0, 50, (6, 4), generator=torch.Generator().manual_seed(10 * step + context.rank))
        optimizer.zero_grad()
        model(ids.to(device)).square().mean().backward()
        optimizer.step()
    return table.weight.detach().cpu()


@pytest.mark.parametrize("size", SIZES)
def test_ddp_steps_with_sparse_gradients_as_on_cpus(pool: RankPool, size: int) -> None:
    tables = {
        device: pool.run(embedding_step, device, world_size=size, backend=BACKEND, deadline=180)
        for device in ("cpu", "cuda")
    }
    torch.testing.assert_close(tables["cuda"], tables["cpu"], rtol=1e-9, atol=1e-9)
