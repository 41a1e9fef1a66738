"""merak.redistribute of CUDA tensors: the results of CPU tensors.

    python -m pytest -m cuda tests

Skipped where there is no GPU. Uses as many GPUs as there are, up to four, one for each rank.
"""

from __future__ import annotations

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh

import merak
from merak import _torch_compat
from tests.backend.conftest import BACKEND
from tests.backend.harness import Context, RankPool
from tests.resharding import reference

GPUS = torch.cuda.device_count()
SIZES = range(1, min(GPUS, 4) + 1)

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(GPUS == 0, reason="needs a GPU")]


def random_cases(context: Context, seed: int, count: int) -> None:
    torch.cuda.set_device(context.rank)
    random = reference.RandomCases(seed, context.world_size)
    for number in range(count):
        case = random.draw()
        on_cpu = reference.source(case.parts, case.source, context.rank)
        source, target = (DeviceMesh("cuda", side.mesh, _init_backend=False) for side in (case.source, case.target))
        x = _torch_compat.make_dtensor(on_cpu.to_local().cuda(), source, case.source.placements, on_cpu.shape)
        y = merak.redistribute(x, target, case.target.placements, dtype=case.dtype)
        assert y.to_local().is_cuda
        expected = case.expected(context.rank)
        assert torch.equal(y.to_local().cpu(), expected), f"seed {seed}, case {number}: {case}"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", SIZES)
def test_results_are_those_of_cpus(pool: RankPool, size: int, seed: int) -> None:
    pool.run(random_cases, seed, 25, world_size=size, backend=BACKEND, deadline=180)


def state_dicts(context: Context) -> None:
    torch.cuda.set_device(context.rank)
    values = torch.arange(1000.0)
    src = {"w": values.cuda(), "b": values.cuda().to(torch.int32)} if context.rank == 0 else None
    dst = {"w": torch.zeros(1000, dtype=torch.bfloat16).cuda(), "b": torch.zeros(1000, dtype=torch.int32).cuda()}
    merak.reshard_state_dict(src, dst)
    assert torch.equal(dst["w"].cpu(), values.bfloat16())
    assert torch.equal(dst["b"].cpu(), values.to(torch.int32))


@pytest.mark.parametrize("size", SIZES)
def test_state_dicts_on_gpus(pool: RankPool, size: int) -> None:
    pool.run(state_dicts, world_size=size, backend=BACKEND, deadline=180)
