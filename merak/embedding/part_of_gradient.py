"""The dense gradient of a split table, which says that it is a part where a norm is asked for by what clips gradients.

The norm of a part differs from rank to rank. torch.nn.utils.clip_grad_norm_, which knows nothing of parts, would scale
each rank's gradients by another factor, and so train the layers that all ranks have apart from each other, silently.
Everything else takes it as any tensor; `Tensor.norm()` is that of the part. (Sparse gradients need none of this: torch
has no norm of them.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

_NORMS = (torch.linalg.vector_norm, torch._foreach_norm)  # of torch.nn.utils.get_total_norm


class PartOfGradient(torch.Tensor):
    """See above. What is computed from it is a plain tensor."""

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _NORMS:
            raise RuntimeError(
                "the gradient of a split table is this rank's part, whose norm is not that of the model: clip by "
                "merak.embedding.clip_grad_norm_ (in the Trainer of Hugging Face, set max_grad_norm=0)."
            )
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    def __deepcopy__(self, memo: dict[int, Any]) -> PartOfGradient:
        copy: PartOfGradient = memo.setdefault(id(self), plain(self).clone().as_subclass(PartOfGradient))
        return copy


def plain(gradient: torch.Tensor) -> torch.Tensor:
    """The same, as a tensor like any other; shares its memory."""
    return gradient.as_subclass(torch.Tensor) if isinstance(gradient, PartOfGradient) else gradient
