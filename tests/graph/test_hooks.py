"""Hooks of the backward are refused; those of the forward are captured."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from merak.graph import CaptureError, capture
from tests.graph.test_capture import Net, assert_as_plain, squared

BATCH = {"x": torch.ones(3, 4)}


@pytest.mark.parametrize("kind", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_hooks_of_modules(kind: str) -> None:
    model = Net(squared)
    handle = getattr(model.linear, kind)(lambda *given: None)
    with pytest.raises(CaptureError, match=r"Net cannot be captured: linear has hooks that run in the backward"):
        capture(model, BATCH)
    assert capture(model, BATCH, training=False).outputs == ["loss", "y"], "no backward, no hook"
    handle.remove()
    assert_as_plain(model, BATCH)


def test_hooks_of_all_modules() -> None:
    handle = nn.modules.module.register_module_full_backward_hook(lambda *given: None)
    try:
        with pytest.raises(CaptureError, match="every module"):
            capture(Net(squared), BATCH)
    finally:
        handle.remove()


def test_hooks_of_tensors() -> None:
    def forward(model: Net, x: torch.Tensor) -> Any:
        y = model.linear(x)
        if y.requires_grad:
            y.register_hook(lambda gradient: gradient * 5)
        return {"loss": y.square().mean()}

    before = torch.Tensor.register_hook
    with pytest.raises(CaptureError, match=r"(?s)registers a hook with a tensor.*autograd.Function.*test_hooks.py:"):
        capture(Net(forward), BATCH)
    assert torch.Tensor.register_hook is before
    assert capture(Net(forward), BATCH, training=False).outputs == ["loss"]


def test_hooks_of_the_forward_are_captured() -> None:
    model = Net(squared)
    model.linear.register_forward_hook(lambda module, given, output: output * 2)
    model.linear.register_forward_pre_hook(lambda module, given: (given[0] + 1,))
    assert_as_plain(model, BATCH)


@pytest.mark.parametrize("kind", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_of_parameters(kind: str) -> None:
    model = Net(squared)
    handle = getattr(model.linear.weight, kind)(lambda given: None)
    with pytest.raises(CaptureError, match=r"the parameter linear.weight has hooks.*register_step_pre_hook"):
        capture(model, BATCH)
    handle.remove()
    assert_as_plain(model, BATCH)
