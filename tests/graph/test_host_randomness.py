"""Numbers that Python or numpy draw in `forward` are refused; those that torch draws are nodes of the graph."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from merak.graph import CaptureError, capture
from tests.graph.test_capture import Net

BATCH = {"x": torch.ones(3, 4)}


@pytest.mark.parametrize(
    ("draw", "whose"),
    [
        (random.random, r"Python's `random`"),
        (np.random.rand, r"`numpy.random`"),
        (lambda: np.random.permutation(4)[0], r"`numpy.random`"),
        (lambda: random.random() + np.random.rand(), r"Python's `random` and `numpy.random`"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_draws_are_refused(draw: Callable[[], float], whose: str, training: bool) -> None:
    def forward(model: Net, x: torch.Tensor) -> Any:
        return {"loss": (model.linear(x) * float(draw())).square().mean()}

    with pytest.raises(CaptureError, match=rf"draws random numbers from {whose}, which"):
        capture(Net(forward), BATCH, training=training)


def test_draws_of_the_loss_are_refused() -> None:
    with pytest.raises(CaptureError, match="draws random numbers"):
        capture(Net(lambda model, x: model.linear(x)), BATCH, loss_fn=lambda y, batch: y.sum() * random.random())


def test_a_generator_of_ones_own_is_not_the_global_one() -> None:
    fixed = np.random.default_rng(3).random()  # the same at each call: no harm in a graph
    assert capture(Net(lambda model, x: {"loss": model.linear(x).sum() * fixed}), BATCH).outputs == ["loss"]
