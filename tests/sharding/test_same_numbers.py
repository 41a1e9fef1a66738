"""Same numbers as one process, however a model's tensors are divided."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from tests.engine import zoo
from tests.sharding import whole

Runner = Callable[..., list[Any]]

MESHES: dict[tuple[int, int], list[str]] = {
    (1, 2): ["megatron", "megatron-no-vocabulary", "sequence"],
    (2, 1): ["batch", "zero"],
    (2, 2): ["2d", "2d-sequence", "2d-zero"],
    (1, 3): ["megatron", "sequence"],
    (3, 1): ["batch", "zero"],
}
SAMPLE = {("gpt2", (2, 2)), ("vit", (1, 3)), ("bert", (3, 1))}


def trials() -> list[Any]:
    """All models on all meshes; `make test` runs a sample, the rest takes half an hour: `pytest -m slow`."""
    return [
        pytest.param(
            model, mesh, id=f"{model}-{mesh[0]}x{mesh[1]}", marks=() if (model, mesh) in SAMPLE else pytest.mark.slow
        )
        for model in zoo.ZOO
        for mesh in MESHES
    ]


def assert_same(found: whole.Outcome, expected: whole.Outcome, tolerance: float, tactic: str) -> None:
    assert found.loss == pytest.approx(expected.loss, rel=tolerance), tactic
    norms = torch.stack([gradient.norm() for gradient in expected.gradients.values()])
    slack = tolerance / 10 * float(norms.norm())
    assert found.gradients.keys() == expected.gradients.keys(), tactic
    for name, theirs in expected.gradients.items():
        difference = float((found.gradients[name] - theirs).norm())
        assert difference <= tolerance * float(theirs.norm()) + slack, f"{tactic}: {name} is off by {difference:.3g}"


@pytest.mark.parametrize(("model", "mesh"), trials())
def test_same_numbers(run: Runner, model: str, mesh: tuple[int, int]) -> None:
    axes: Mapping[str, int] = {"dp": mesh[0], "tp": mesh[1]}
    dtype = torch.float64 if zoo.ZOO[model].double and model not in ("gpt2", "llama") else torch.float32
    outcomes = run(whole.on_mesh, model, axes, MESHES[mesh], 4, dtype, world_size=mesh[0] * mesh[1], deadline=240)
    expected = whole.in_one_process(model, 4, dtype)
    for of_rank in outcomes:
        for tactic, outcome in zip(MESHES[mesh], of_rank, strict=True):
            assert_same(outcome, expected, 1e-5, tactic)
