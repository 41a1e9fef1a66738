"""Operations on CUDA tensors, beside the same on CPU tensors: what the GPU adds is the launch.

python -m pytest -m cuda tests
"""

from __future__ import annotations

import pytest
import torch

from merak import data
from tests.data import models
from tests.data.test_tokens import DTYPES, drawn

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(torch.cuda.device_count() == 0, reason="needs a GPU")]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seed", range(6))
def test_tokens_are_moved_as_on_the_cpu(dtype: torch.dtype, seed: int) -> None:
    shape, index = drawn(seed)
    full = torch.randint(-100, 100, shape).to(dtype)
    part = data.gather_tokens(full, index)
    on_gpu = data.gather_tokens(full.cuda(), index.cuda())
    assert torch.equal(on_gpu.cpu(), part)
    assert torch.equal(
        data.place_tokens(on_gpu, index.cuda(), shape[1]).cpu(), data.place_tokens(part, index, shape[1])
    )
    twice = data.scatter_tokens(full, part.flip(0), index)
    assert torch.equal(data.scatter_tokens(full.cuda(), on_gpu.flip(0), index.cuda()).cpu(), twice)


def test_the_same_tokens_are_kept() -> None:
    for length, kept in ((1, 1), (7, 3), (4096, 1000)):
        where = {"seed": 1, "step": 2, "microbatch": 3, "layer": 4}
        on_gpu = data.keep_tokens(5, length, kept, **where, device="cuda")
        assert torch.equal(on_gpu.cpu(), data.keep_tokens(5, length, kept, **where))


@pytest.mark.parametrize("case", ["gpt2", "llama-packed", "vit"])
def test_models_drop_the_same_tokens(case: str) -> None:
    results = []
    for device in ("cpu", "cuda"):
        model, batch = models.made(case)
        model.to(device)
        data.RandomLTD(model, schedule=data.KeepSchedule.constant(7), seed=3)
        logits, gradients = models.outcome(model, {name: value.to(device) for name, value in batch.items()})
        results.append([logits.cpu(), *(gradient.cpu() for gradient in gradients)])
    for on_cpu, on_gpu in zip(*results, strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-3, atol=1e-4)
