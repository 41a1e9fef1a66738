"""CUDA tensors over merak, beside the same calls on CPU tensors; and the GPU's side of the C++ core.

    python -m pytest -m cuda tests

Skipped where there is no GPU. Uses as many GPUs as there are, up to four, one for each rank.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests import cuda_program
from tests.backend.conftest import BACKEND
from tests.backend.harness import Context, RankPool

GPUS = torch.cuda.device_count()
SIZES = range(1, min(GPUS, 4) + 1)
ROWS = 6

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(GPUS == 0, reason="needs a GPU")]

Tensors = list[torch.Tensor]


def contribution(rank: int, device: str, rows: int = ROWS, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Small whole numbers, exact in every type and order of summation."""
    values = torch.arange(rows * 5).reshape(rows, 5) % 7 + rank
    return values.to(device=device, dtype=dtype)


def _all_reduce(x: torch.Tensor, rank: int, size: int) -> Tensors:
    results = []
    for op in (dist.ReduceOp.SUM, dist.ReduceOp.AVG, dist.ReduceOp.MAX, dist.ReduceOp.MIN, dist.ReduceOp.PRODUCT):
        if op == dist.ReduceOp.AVG and not x.is_floating_point():
            continue
        results.append(x.clone())
        dist.all_reduce(results[-1], op)
    return results


def _coalesced(x: torch.Tensor, rank: int, size: int) -> Tensors:
    results = [x.clone(), x[:2] + 1]
    with dist._coalescing_manager(device=x.device, async_ops=True) as works:
        for result in results:
            dist.all_reduce(result)
    works.wait()
    return results


def _broadcast(x: torch.Tensor, rank: int, size: int) -> Tensors:
    dist.broadcast(x, src=size - 1)
    return [x]


def _reduce(x: torch.Tensor, rank: int, size: int) -> Tensors:
    dist.reduce(x, dst=size - 1)
    return [x] if rank == size - 1 else []


def _all_gather(x: torch.Tensor, rank: int, size: int) -> Tensors:
    results = [torch.empty_like(x) for _ in range(size)]
    dist.all_gather(results, x)
    return results


def _all_gather_into_tensor(x: torch.Tensor, rank: int, size: int) -> Tensors:
    result = x.new_empty((size * x.shape[0], x.shape[1]))
    dist.all_gather_into_tensor(result, x)
    return [result]


def _reduce_scatter(x: torch.Tensor, rank: int, size: int) -> Tensors:
    result = torch.empty_like(x)
    dist.reduce_scatter(result, [x + part for part in range(size)])
    return [result]


def _reduce_scatter_tensor(x: torch.Tensor, rank: int, size: int) -> Tensors:
    result = torch.empty_like(x)
    dist.reduce_scatter_tensor(result, torch.cat([x + part for part in range(size)]))
    return [result]


def _all_to_all(x: torch.Tensor, rank: int, size: int) -> Tensors:
    results = [torch.empty_like(x) for _ in range(size)]
    dist.all_to_all(results, [x + 10 * part for part in range(size)])
    return results


def _all_to_all_uneven(x: torch.Tensor, rank: int, size: int) -> Tensors:
    sent = [(rank + peer) % 3 for peer in range(size)]
    result = x.new_empty((sum(sent), x.shape[1]))  # as many rows come from a peer as go to it
    dist.all_to_all_single(result, torch.cat([x[:rows] + 1 for rows in sent]), sent, sent)
    return [result]


def _gather(x: torch.Tensor, rank: int, size: int) -> Tensors:
    results = [torch.empty_like(x) for _ in range(size)] if rank == 0 else []
    dist.gather(x, results or None, dst=0)
    return results


def _scatter(x: torch.Tensor, rank: int, size: int) -> Tensors:
    result = torch.empty_like(x)
    dist.scatter(result, [x + part for part in range(size)] if rank == 0 else None, src=0)
    return [result]


def _ring_of_messages(x: torch.Tensor, rank: int, size: int) -> Tensors:
    if size == 1:
        return []
    result = torch.empty_like(x)
    messages = [dist.P2POp(dist.isend, x, (rank + 1) % size), dist.P2POp(dist.irecv, result, (rank - 1) % size)]
    for work in dist.batch_isend_irecv(messages):
        work.wait()
    return [result]


CALLS: tuple[Callable[[torch.Tensor, int, int], Tensors], ...] = (
    _all_reduce,
    _coalesced,
    _broadcast,
    _reduce,
    _all_gather,
    _all_gather_into_tensor,
    _reduce_scatter,
    _reduce_scatter_tensor,
    _all_to_all,
    _all_to_all_uneven,
    _gather,
    _scatter,
    _ring_of_messages,
)


def every_call_on_both(context: Context, dtype: torch.dtype) -> None:
    """Calls on CPU and CUDA tensors take turns in one group."""
    torch.cuda.set_device(context.rank)
    for call in CALLS:
        on = {
            device: call(contribution(context.rank, device, dtype=dtype), context.rank, context.world_size)
            for device in ("cpu", "cuda")
        }
        assert all(result.is_cuda for result in on["cuda"]), call.__name__
        for ours, theirs in zip(on["cuda"], on["cpu"], strict=True):
            torch.testing.assert_close(ours.cpu(), theirs, rtol=0, atol=0, msg=call.__name__)
    dist.barrier()


def both_in_flight(context: Context) -> None:
    torch.cuda.set_device(context.rank)
    tensors = [contribution(context.rank, device, rows=1000) for device in ("cpu", "cuda") * 8]
    works = [dist.all_reduce(tensor, async_op=True) for tensor in tensors]
    for work in reversed(works):
        work.wait()
    expected = sum(contribution(rank, "cpu", rows=1000) for rank in range(context.world_size))
    for tensor in tensors:
        torch.testing.assert_close(tensor.cpu(), expected, rtol=0, atol=0)


def sparse(context: Context) -> None:
    torch.cuda.set_device(context.rank)
    indices, values = torch.tensor([[context.rank, 7]]), torch.full((2, 3), float(context.rank + 1))
    results = []
    for device in ("cpu", "cuda"):
        tensor = torch.sparse_coo_tensor(indices, values, (10, 3), device=device)
        dist.all_reduce(tensor)
        results.append(tensor.cpu().to_dense())
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


def ddp_step(context: Context, device: str) -> list[torch.Tensor]:
    """The parameters after three steps of SGD on data that differs by rank."""
    if device == "cuda":
        torch.cuda.set_device(context.rank)
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(20, 50), torch.nn.Tanh(), torch.nn.Linear(50, 3)).double()
    model = DistributedDataParallel(layers.to(device))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        data = torch.randn(8, 20, generator=torch.Generator().manual_seed(10 * step + context.rank)).double()
        loss = model(data.to(device)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [parameter.detach().cpu() for parameter in model.parameters()]


def test_nccl_is_the_copy_that_torch_brought(pool: RankPool) -> None:
    assert pool.run(mapped_nccl, world_size=1, backend=BACKEND) == [1]


def mapped_nccl(context: Context) -> int:
    """How many NCCL libraries this process has, after it has used one."""
    torch.cuda.set_device(context.rank)
    dist.all_reduce(torch.ones(1, device="cuda"))
    return len({line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libnccl.so" in line})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
@pytest.mark.parametrize("size", SIZES)
def test_every_call_gives_what_it_gives_on_cpus(pool: RankPool, size: int, dtype: torch.dtype) -> None:
    pool.run(every_call_on_both, dtype, world_size=size, backend=BACKEND, deadline=180)


@pytest.mark.parametrize("backend", [BACKEND, f"cpu:{BACKEND},cuda:nccl"])
@pytest.mark.parametrize("body", [both_in_flight, sparse])
def test_a_group_carries_both_devices(pool: RankPool, body: Callable[[Context], None], backend: str) -> None:
    if body is sparse and "nccl" in backend:
        pytest.skip("all_reduce of sparse tensors is merak's; that of NCCL is another")
    pool.run(body, world_size=max(SIZES, default=1), backend=backend, deadline=180)


@pytest.mark.parametrize("size", SIZES)
def test_ddp_steps_as_on_cpus(pool: RankPool, size: int) -> None:
    runs: dict[str, list[Any]] = {
        device: pool.run(ddp_step, device, world_size=size, backend=BACKEND, deadline=180) for device in ("cpu", "cuda")
    }
    torch.testing.assert_close(runs["cuda"], runs["cpu"], rtol=1e-9, atol=1e-9)


def test_kernels_and_programs_over_nccl(tmp_path: Path) -> None:
    """Builds tests/*/cuda_test.cu for the GPUs present, and runs it."""
    major, minor = torch.cuda.get_device_capability()
    program = tmp_path / "cuda_test"
    cuda_program.build(program, f"{major}{minor}")
    package = importlib.util.find_spec("nvidia.nccl")
    folders = list(package.submodule_search_locations or []) if package else []
    library = next((str(Path(folder, "lib", "libnccl.so.2")) for folder in folders), "libnccl.so.2")
    subprocess.run([program], env=os.environ | {"MERAK_TEST_NCCL": library}, check=True, timeout=600)
