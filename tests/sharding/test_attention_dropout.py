"""Attention that is told what its dropout keeps: PyTorch's numbers, without PyTorch's warning."""

from __future__ import annotations

import random
import warnings

import pytest
import torch

from merak.sharding.dropout import attention_keeping


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_it_is_pytorchs(dtype: torch.dtype) -> None:
    for seed in range(60):
        choice, generator = random.Random(seed), torch.Generator().manual_seed(seed)

        def real(*shape: int, of: torch.Generator = generator) -> torch.Tensor:
            return torch.randn(*shape, generator=of, dtype=torch.float64).to(dtype)

        heads, s, t = choice.choice([2, 4]), choice.choice([1, 3, 5]), choice.choice([1, 4])
        shared = choice.random() < 0.3
        query = real(2, heads, s, 4)
        key, value = real(2, heads // 2 if shared else heads, t, 4), real(2, heads // 2 if shared else heads, t, 6)
        mask = choice.choice([None, real(2, 1, s, t), real(s, t) > -0.5])
        kept = torch.rand(2, heads, s, t, generator=generator) < 0.7
        more = {"scale": choice.choice([None, 0.3]), "enable_gqa": shared}
        added = mask
        if mask is not None and mask.dtype == torch.bool:
            added = torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, -torch.inf)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = torch.ops.aten._scaled_dot_product_attention_math.default(
                query, key, value, added, 0.3, False, kept, **more
            )[0]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = attention_keeping(query, key, value, mask, kept, 0.3, **more)
        torch.testing.assert_close(found, expected, msg=lambda text, at=seed: f"seed {at}: {text}")
