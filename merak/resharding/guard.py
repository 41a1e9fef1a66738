"""A guard around `DTensor.redistribute`.

torch 2.15 takes another mesh there and, in two cases, returns wrong data without an error: with the placements that the
tensor has already it returns the tensor on its old mesh; with `forward_dtype` it puts the new mesh's name on data that
has not moved.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement

from merak import _torch_compat
from merak.resharding import layouts
from merak.resharding.operations import redistribute


class guard_dtensor:  # noqa: N801 - used like a function, as torch.no_grad is
    """While it is entered, or until `remove()`, `DTensor.redistribute` to another mesh goes through
    `merak.redistribute` (all ranks of both meshes have to call it), or raises a ValueError that names the ranks.

        with merak.resharding.guard_dtensor():
            y = x.redistribute(other_mesh, [Shard(0)])
        guard = merak.resharding.guard_dtensor("raise").install()    # for the rest of the program

    What stays on its mesh is DTensor's own, as before.
    """

    def __init__(self, instead: Literal["move", "raise"] = "move") -> None:
        if instead not in ("move", "raise"):
            raise ValueError(f"guard_dtensor: {instead!r}; choose 'move' or 'raise'.")
        self._instead = instead
        self._original: Any = None

    def install(self) -> guard_dtensor:
        """Puts it in place.

        Raises:
            RuntimeError: it is already.
        """
        if self._original is not None:
            raise RuntimeError("guard_dtensor: it is in place already.")
        self._original = _torch_compat.redistribute_of_dtensor()
        DTensor.redistribute = _guarded(self._original, self._instead)  # type: ignore[method-assign]
        return self

    def remove(self) -> None:
        """Takes it away; nothing if it is not there. Guards are removed in the reverse order."""
        if self._original is not None:
            DTensor.redistribute = self._original  # type: ignore[method-assign]
            self._original = None

    def __enter__(self) -> guard_dtensor:
        return self.install()

    def __exit__(self, *_: object) -> None:
        self.remove()


def _guarded(original: Any, instead: str) -> Any:
    @functools.wraps(original)
    def guarded(
        self: DTensor,
        device_mesh: DeviceMesh | None = None,
        placements: Sequence[Placement] | None = None,
        *,
        async_op: bool = False,
        forward_dtype: torch.dtype | None = None,
        backward_dtype: torch.dtype | None = None,
        **more: Any,
    ) -> DTensor:
        if device_mesh is None or layouts.mesh_of(device_mesh) == layouts.mesh_of(self.device_mesh):
            dtypes = {"forward_dtype": forward_dtype, "backward_dtype": backward_dtype}
            given = {name: dtype for name, dtype in dtypes.items() if dtype is not None}  # torch 2.11 has none
            moved: DTensor = original(self, device_mesh, placements, async_op=async_op, **given, **more)
            return moved
        if instead == "raise":
            here, there = (layouts.ranks_text(layouts.mesh_of(mesh)[1]) for mesh in (self.device_mesh, device_mesh))
            raise ValueError(
                f"DTensor.redistribute: the tensor is on a mesh of ranks {here}, the target is one of ranks {there}, "
                "and torch cannot move it there. merak.redistribute(x, mesh, placements) does."
            )
        if backward_dtype is not None or more:
            names = ", ".join(["backward_dtype"] * (backward_dtype is not None) + list(more))
            raise ValueError(f"DTensor.redistribute: {names} cannot be chosen when a tensor changes its mesh.")
        return redistribute(
            self, device_mesh, self.placements if placements is None else placements, dtype=forward_dtype
        )

    return guarded
