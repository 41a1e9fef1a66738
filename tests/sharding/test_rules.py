"""The rules of operations say the truth: what ranks compute of their parts is their part of the result."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from merak import _C
from merak.sharding.parts import Place, parts
from tests.sharding.operations import MAKERS, Draw, Drawn

SEEDS = 600  # of each kind of operation: some 11,000 calls, each with every factor divided over 2 and 3 ranks
Layout = list[list[tuple[int, list[int]]]]


def rule_of(drawn: Drawn, results: list[torch.Tensor]) -> Any:
    tensors = [*drawn.operands, *results]
    values = [(f"t{i}", list(one.shape), 1.0, False, False, False, False) for i, one in enumerate(tensors)]
    operands = list(range(len(drawn.operands)))
    made = list(range(len(operands), len(tensors)))
    return _C.ShardingProgram([("a", 2)], values, [("op", drawn.name, operands, made, drawn.arguments)]).rule(0)


def layout(dims: list[list[int]], shape: torch.Size, factors: list[tuple[int, str]], divided: int) -> Layout:
    return [
        [(factors[one][0], [0] if one == divided else []) for one in of_dim] or [(size, [])]
        for of_dim, size in zip(dims, shape, strict=True)
    ]


def check_factor(drawn: Drawn, results: list[torch.Tensor], rule: Any, divided: int, ranks: int) -> str:
    """What is wrong, if one factor is divided over so many ranks."""
    factors, of_operands, of_results = rule
    kind = factors[divided][1]
    terms = [torch.zeros_like(one) for one in results]
    for rank in range(ranks):
        places = [Place(rank, ranks, "")]
        mine = [
            parts(one, layout(dims, one.shape, factors, divided), places)
            for one, dims in zip(drawn.operands, of_operands, strict=True)
        ]
        if kind == "reduce" and drawn.added is not None and rank > 0:
            mine[drawn.added] = torch.zeros_like(mine[drawn.added])
        expected = [
            parts(one, layout(dims, one.shape, factors, divided), places)
            for one, dims in zip(results, of_results, strict=True)
        ]
        if any(one.numel() == 0 for one in (*mine, *expected)):
            return ""  # a rank without a part: kernels differ in what they take; tests of whole models have it
        found = drawn.results(mine, [one.shape for one in expected])
        if kind == "reduce":
            terms = [sum_ + one for sum_, one in zip(terms, found, strict=True)]
        elif any(
            one.shape != two.shape or not torch.allclose(one, two) for one, two in zip(found, expected, strict=True)
        ):
            return f"{kind} factor {divided} of {rule} over {ranks} ranks"
    if kind == "reduce" and any(not torch.allclose(one, two) for one, two in zip(terms, results, strict=True)):
        return f"the sum over factor {divided} of {rule} over {ranks} ranks"
    return ""


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
def test_parts_of_results_are_results_of_parts(maker: Any) -> None:
    tried = 0
    for seed in range(SEEDS):
        drawn = maker(Draw(seed))
        results = drawn.results(drawn.operands, [])
        rule = rule_of(drawn, results)
        for divided, (size, kind) in enumerate(rule[0]):
            if kind in ("pass", "reduce") and size > 1:
                for ranks in (2, 3):
                    tried += 1
                    wrong = check_factor(drawn, results, rule, divided, ranks)
                    assert not wrong, f"{drawn.name}, seed {seed}: {wrong}"
    assert tried > SEEDS / 4, "hardly anything may be divided"
