"""Buffers that `forward` gives new values by assignment: `self.mean = 0.9 * self.mean + 0.1 * x.mean(0)`.

For Python that is another tensor under the old name, of which a graph would know nothing. Here it becomes a copy into
the buffer, behind the operations of `forward`; `buffer_writes` moves it to where the new value is made.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from merak.graph.errors import CaptureError


class Buffers:
    """The buffers of a model at one time, in a capture."""

    def __init__(self, model: nn.Module) -> None:
        self._held = [
            (f"{name}.{key}".lstrip("."), module._buffers, key, tensor)
            for name, module in model.named_modules()
            for key, tensor in module._buffers.items()
            if tensor is not None
        ]

    def write_assigned(self) -> list[str]:
        """Copies what was assigned into the buffers of that time, which take their places again; names of those."""
        assigned = [(name, tensor, held.get(key)) for name, held, key, tensor in self._held]
        assigned = [(name, old, new) for name, old, new in assigned if new is not old]
        for name, old, new in assigned:
            self._check(name, old, new)
        values = [new.detach() for _, _, new in assigned if new is not None]  # before any is written to
        for (_, old, _), value in zip(assigned, values, strict=True):
            old.copy_(value)
        self.put_back()
        return [name for name, _, _ in assigned]

    def put_back(self) -> None:
        """Gives the modules their buffers of that time."""
        for _, held, key, tensor in self._held:
            held[key] = tensor

    def clone(self) -> None:
        """Gives the modules copies instead, to which they may write."""
        copies = {id(tensor): tensor.clone() for _, _, _, tensor in self._held}
        for _, held, key, tensor in self._held:
            held[key] = copies[id(tensor)]

    def values(self) -> list[torch.Tensor]:
        """What the modules have in their places now."""
        return [value for _, held, key, _ in self._held if (value := held.get(key)) is not None]

    def _check(self, name: str, old: torch.Tensor, new: Any) -> None:
        why = None
        if not isinstance(new, torch.Tensor):
            why = f"{type(new).__name__} takes the place of a tensor"
        elif [*map(str, new.shape)] != [*map(str, old.shape)] or new.dtype != old.dtype:
            why = f"{new.dtype} of shape {_shape(new)} takes the place of {old.dtype} of shape {_shape(old)}"
        elif sum(tensor is old for _, _, _, tensor in self._held) > 1:
            why = "other modules have the same buffer, and would keep the old one"
        if why is not None:
            raise CaptureError(
                f"the model assigns to its buffer {name} in `forward`, and {why}. Write into the buffer, which keeps "
                f"its shape and dtype (`self.{name.rpartition('.')[2]}.copy_(...)`)"
            )


def _shape(tensor: torch.Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"
