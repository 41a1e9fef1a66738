"""What must be the same on all ranks, and is refused on all of them if it is not."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers.activations import ACT2FN

import merak
from merak.engine.agreement import digest_of_values
from tests.backend.harness import Context
from tests.engine import zoo


def refusal(context: Context, seed: int, microbatches: int, activation: str = "gelu_new") -> str:
    model = zoo.make("gpt2")
    if context.rank == 1:
        for block in model.transformer.h[1:]:
            block.mlp.act = ACT2FN[activation]
    if context.rank == 1:
        with torch.no_grad():
            model.transformer.wpe.weight[0, 0] += seed
    plan = merak.Plan(dp=2, microbatches=2 + microbatches * context.rank)
    try:
        merak.parallelize(model, plan, zoo.batch_of("gpt2", 4, 0), optimizer=torch.optim.SGD)
    except ValueError as error:
        return str(error)
    return ""


def test_models_with_other_values_are_refused(run: Callable[..., list[Any]]) -> None:
    for text in run(refusal, 1, 0, world_size=2):
        assert "values of the models' parameters and buffers of ranks [1] differ from rank 0's" in text
        first, other = re.findall(r"\n  (.*)", text)
        assert first.startswith("transformer.wpe.weight, (16, 32) of torch.float32, with bits that sum to")
        assert other.startswith("transformer.wpe.weight")
        assert first != other


def test_models_with_other_operations_are_refused_with_the_first(run: Callable[..., list[Any]]) -> None:
    for text in run(refusal, 0, 0, "relu", world_size=2):
        assert "the models of ranks [1] differ from rank 0's" in text
        first, other = re.findall(r"\n  (.*)", text)
        assert "call_function" in first
        assert "call_function" in other
        assert first != other


def test_other_plans_are_refused(run: Callable[..., list[Any]]) -> None:
    for text in run(refusal, 0, 1, world_size=2):
        assert "plans of ranks [1] differ from rank 0's" in text


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float64, torch.complex64, torch.bool, torch.int8]
)
def test_one_changed_value_changes_the_digest(dtype: torch.dtype) -> None:
    module = torch.nn.Module()
    module.register_buffer("x", torch.ones(3, 4).to(dtype).t())
    before = digest_of_values(module)
    module.x[1, 2] = 0
    assert digest_of_values(module) != before
