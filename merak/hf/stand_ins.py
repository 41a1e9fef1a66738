"""What transformers is shown in place of a model or an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn


class Named(nn.Module):
    """A model of which only some parameters are to be seen: an optimizer is made for those."""

    def __init__(self, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        super().__init__()
        self._named = list(named_parameters)

    def named_parameters(self, *_: Any, **__: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters by the whole model's names."""
        return iter(self._named)


class Through(nn.Module):
    """A model that has somebody else compute."""

    def __init__(self, compute: Callable[[dict[str, Any]], Any]) -> None:
        super().__init__()
        self._compute = compute

    def forward(self, **inputs: Any) -> Any:
        """Whatever it computes."""
        return self._compute(inputs)


class SteppedOptimizer(torch.optim.Optimizer):
    """A view of an optimizer whose steps are taken elsewhere.

    Attributes:
        step_was_skipped: whether the last step was, because gradients overflowed.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:  # a view: it has no groups of its own
        self.optimizer, self.step_was_skipped = optimizer, False

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The optimizer's."""
        return self.optimizer.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The optimizer's."""
        return self.optimizer.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The optimizer's."""
        return self.optimizer.defaults

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Nothing: it was taken."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing: the next step clears gradients."""

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's."""
        return self.optimizer.state_dict()
