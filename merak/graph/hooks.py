"""Hooks of the backward, which no graph has: models that use them are refused, and told what to do instead.

A graph's backward is autograd's of its operations, by stages: there is no module in it, and no tensor of the model's,
whose hooks could run. Hooks of the forward are part of what is captured.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from merak._torch_graphs import backward_hooks
from merak.graph.errors import CaptureError, some

_OF_TENSORS = ("register_hook", "register_post_accumulate_grad_hook")


def refuse_backward_hooks(model: nn.Module) -> None:
    """Raises CaptureError if any of a model's modules or parameters has hooks that run in a backward."""
    _refuse_hooks_of_modules(model)
    _refuse_hooks_of_parameters(model)


def _refuse_hooks_of_modules(model: nn.Module) -> None:
    hooked = [name or "the model itself" for name, module in model.named_modules() if backward_hooks(module)]
    if backward_hooks(None):
        hooked.append("every module (hooks registered for all modules)")
    if hooked:
        raise CaptureError(
            f"{type(model).__name__} cannot be captured: {some(hooked)} has hooks that run in the backward "
            "(register_full_backward_hook or register_full_backward_pre_hook), and a graph has no modules. "
            "Remove them (`handle.remove()`), and put what they do to gradients into the `backward` of a "
            "`torch.autograd.Function` that `forward` applies"
        )


def _refuse_hooks_of_parameters(model: nn.Module) -> None:
    """A schedule decides how often and when a gradient is added to: a hook would see parts of it, or none."""
    hooked = [name for name, parameter in model.named_parameters() if backward_hooks(parameter)]
    if hooked:
        raise CaptureError(
            f"{type(model).__name__} cannot be captured: the parameter {some(hooked)} has hooks (register_hook or "
            "register_post_accumulate_grad_hook), and a schedule adds to gradients in parts. Remove them "
            "(`handle.remove()`), and change whole gradients in `engine.optimizer.register_step_pre_hook`"
        )


@contextlib.contextmanager
def tensor_hooks_refused() -> Iterator[None]:
    """Within, registering a hook with a tensor is a CaptureError."""
    originals = {name: getattr(torch.Tensor, name) for name in _OF_TENSORS}

    def refuse(tensor: torch.Tensor, hook: Any) -> Any:
        raise CaptureError(
            "`forward` registers a hook with a tensor (register_hook), which a graph would not run in its backward. "
            "Put what the hook does to the gradient into the `backward` of a `torch.autograd.Function`, and apply that "
            "to the tensor"
        )

    for name in originals:
        setattr(torch.Tensor, name, refuse)
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(torch.Tensor, name, original)
