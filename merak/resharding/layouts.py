"""What a layout is to people, and what it is to the C++ side.

A layout is a mesh of ranks and a placement for each of its dimensions, as DTensor has it. People write meshes as a
`DeviceMesh`, a tensor or nested lists of ranks, and placements as DTensor's objects or as it prints them: "R", "S(0)",
"_S(0, 4)", "P(sum)".
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, Union

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

from merak import _torch_compat

Ranks: TypeAlias = Union["DeviceMesh", torch.Tensor, Sequence["Ranks"], Sequence[int]]
"""A mesh."""
PlacementLike: TypeAlias = Placement | str

PlacementTuple: TypeAlias = tuple[str, int, int, str]
"""Kind, dimension, split factor, reduction: for C++."""
LayoutTuple: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], tuple[PlacementTuple, ...]]
"""The mesh's shape, its ranks, and a placement for each of its dimensions: for C++."""


REPLICATE: PlacementTuple = ("replicate", 0, 1, "none")


def device_of(device_type: str) -> torch.device:
    """Where this rank's tensors of a mesh of that type are."""
    return torch.device("cuda", torch.cuda.current_device()) if device_type == "cuda" else torch.device(device_type)


def dtype_name(dtype: torch.dtype) -> str:
    """As merak names it: "float32"."""
    return str(dtype).removeprefix("torch.")


def dtype_named(name: str) -> torch.dtype:
    """The dtype of that name.

    Raises:
        ValueError: torch has none of that name.
    """
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"torch has no dtype {name!r}")
    return found


def mesh_of(mesh: Ranks) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A mesh's shape, and its ranks in row-major order.

    Raises:
        ValueError: lists of different lengths beside each other, or something other than whole numbers.
    """
    if isinstance(mesh, DeviceMesh):
        return _of_device_mesh(mesh)
    try:
        array = torch.as_tensor(mesh)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"a mesh is a DeviceMesh, or ranks in nested lists of equal lengths, not {mesh!r}") from error
    if array.numel() and (array.is_floating_point() or array.is_complex() or array.dtype == torch.bool):
        raise ValueError(f"ranks are whole numbers, not {mesh!r}")
    if array.dim() == 0:
        array = array.reshape(1)
    return tuple(array.shape), tuple(int(rank) for rank in array.flatten().tolist())


@functools.lru_cache(1024)
def _of_device_mesh(mesh: DeviceMesh) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(mesh.mesh.shape), tuple(mesh.mesh.flatten().tolist())


def placement_from(text: str) -> Placement:
    """A placement as DTensor prints it.

    Raises:
        ValueError: it is none.
    """
    bare = re.sub(r"\s+", "", text)
    if bare in ("R", "Replicate()"):
        return Replicate()
    if found := re.fullmatch(r"(?:S|Shard)\((?:dim=)?(-?\d+)\)", bare):
        return Shard(int(found[1]))
    if found := re.fullmatch(r"(?:_S|_StridedShard)\((?:dim=)?(-?\d+),(?:sf=|split_factor=)?(\d+)\)", bare):
        return _torch_compat.strided_shard(int(found[1]), int(found[2]))
    if found := re.fullmatch(r"(?:P|Partial)\((\w+)\)", bare):
        return Partial(found[1])
    raise ValueError(f"{text!r} is no placement; write one as DTensor prints it: R, S(0), _S(0, 4), P(sum)")


def placement_tuple(placement: PlacementLike, dims: int) -> PlacementTuple:
    """For C++. `dims`: of the tensor, for dimensions that are counted from its end.

    Raises:
        ValueError: it is no placement of a kind that can be moved.
    """
    if isinstance(placement, str):
        placement = placement_from(placement)
    if not isinstance(placement, Placement):
        raise ValueError(
            f"{placement!r} is no placement: expected Shard, Replicate or Partial of DTensor, or their text"
        )
    if type(placement) is Partial:
        return "partial", 0, 1, str(placement.reduce_op)
    if isinstance(placement, Replicate):
        return REPLICATE
    factor = _torch_compat.split_factor(placement)
    if type(placement) is Shard or factor is not None:
        dim = placement.dim  # type: ignore[attr-defined]
        return "shard" if factor is None else "strided_shard", dim + dims if dim < 0 else dim, factor or 1, "none"
    raise ValueError(f"placement {placement} cannot be moved; redistribute to Shard, Replicate or Partial first")


def layout_of(
    mesh: Ranks, placements: Sequence[PlacementLike], dims: int, index_of: Callable[[int], int] = int
) -> LayoutTuple:
    """For C++. `index_of`: what a rank of the mesh is called there.

    Raises:
        ValueError: of the mesh, or of a placement.
    """
    shape, ranks = mesh_of(mesh)
    if isinstance(placements, Placement | str):
        placements = (placements,)
    return shape, tuple(map(index_of, ranks)), tuple(placement_tuple(placement, dims) for placement in placements)


def layout_of_dtensor(tensor: DTensor, index_of: Callable[[int], int] = int) -> LayoutTuple:
    """The layout that a DTensor has, for C++. Where its dimensions are not cut from left to right, the mesh's own
    dimensions are put in the order in which they cut."""
    layout = layout_of(tensor.device_mesh, tensor.placements, tensor.dim(), index_of)
    order = _torch_compat.shard_order(tensor)
    return _reordered(layout, [mesh_dims for _, mesh_dims in order]) if order else layout


def _reordered(layout: LayoutTuple, chains: list[tuple[int, ...]]) -> LayoutTuple:
    """With the mesh's dimensions in an order in which those of each chain come one after the other."""
    shape, ranks, placements = layout
    chained = {dim for chain in chains for dim in chain}
    order = [dim for chain in chains for dim in chain] + [dim for dim in range(len(shape)) if dim not in chained]
    turned = torch.tensor(ranks).reshape(shape).permute(order)
    return tuple(turned.shape), tuple(turned.flatten().tolist()), tuple(placements[dim] for dim in order)


def tensors_by_name(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a state dict, in dicts and lists within it as well, by their dotted names.

    Raises:
        ValueError: two have the same.
    """
    found: dict[str, torch.Tensor] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, torch.Tensor):
            if name in found:
                raise ValueError(f"two tensors are called {name!r}")
            found[name] = value
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                walk(inner, f"{name}.{key}" if name else str(key))
        elif isinstance(value, list | tuple):
            for index, inner in enumerate(value):
                walk(inner, f"{name}.{index}")

    walk(state, "")
    return found


def text_of(layout: LayoutTuple) -> str:
    """For people: "(2, 4) of ranks 0-7 [S(0), R]"."""
    shape, ranks, placements = layout
    return f"{tuple(shape)} of ranks {ranks_text(ranks)} [{', '.join(map(placement_text, placements))}]"


def placement_text(placement: PlacementTuple) -> str:
    """As DTensor prints it."""
    kind, dim, factor, reduction = placement
    texts = {"replicate": "R", "shard": f"S({dim})", "strided_shard": f"_S({dim}, {factor})"}
    return texts.get(kind, f"P({reduction})")


def ranks_text(ranks: Sequence[int], most: int = 8) -> str:
    """ "0-3, 6, 9-11": runs in the order given, cut short after `most` of them."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1][-1:] = [rank] if len(runs[-1]) > 1 else [runs[-1][0], rank]
        else:
            runs.append([rank])
    texts = ["-".join(map(str, run)) for run in runs]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")
