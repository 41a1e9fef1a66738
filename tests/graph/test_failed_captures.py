"""A capture that fails says so by its exception, and by nothing else."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from merak.graph import CaptureError, capture
from tests.graph.test_capture import Net, squared


def decides_by_values(model: Net, x: torch.Tensor) -> dict[str, torch.Tensor]:
    y = model.linear(x)
    return squared(model, x) if y.mean() > 0 else {"loss": y.mean()}


@pytest.mark.parametrize(("body", "width"), [(squared, 5), (decides_by_values, 4)])
def test_a_capture_that_fails_prints_nothing(body: Any, width: int, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CaptureError):
        capture(Net(body), {"x": torch.randn(3, width)})
    assert tuple(capfd.readouterr()) == ("", "")


def logs(model: Net, x: torch.Tensor) -> dict[str, torch.Tensor]:
    logging.getLogger("torch.fx.experimental.symbolic_shapes").warning("a word")
    print("a line")
    return squared(model, x)


def test_what_is_logged_of_one_that_does_not_is_seen(capfd: pytest.CaptureFixture[str]) -> None:
    capture(Net(logs), {"x": torch.randn(3, 4)})
    printed, logged = capfd.readouterr()
    assert "a line" in printed
    assert "a word" in logged
