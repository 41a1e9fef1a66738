"""Layouts of whole state dicts in files: JSON, and what checkpoints of torch.distributed.checkpoint say.

The JSON, with `mesh` and `placements` as people write them (layouts.py); what most tensors have in common stands in
`default`; a mesh may be given by its shape and its first rank:

    {"default": {"dtype": "bfloat16", "mesh": {"shape": [4, 2], "first": 0}, "placements": ["S(0)", "S(1)"]},
     "tensors": {"layers.0.wq": {"shape": [512, 512]},
                 "norm": {"shape": [512], "dtype": "float32", "mesh": [0, 1, 2], "placements": ["R"]}}}

A checkpoint says which rank wrote which box of a tensor. Boxes that are the chunks of a DTensor's shards make a mesh of
these ranks; others are refused.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.distributed.tensor import DTensor

from merak.resharding import layouts
from merak.resharding.checkpoint_metadata import Named, read_metadata
from merak.resharding.layouts import LayoutTuple

_MOST_RANKS = 1 << 20
_MOST_ELEMENTS = 1 << 62


class TensorLayout(NamedTuple):
    """One tensor of a file."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: LayoutTuple


def read_layouts(path: str | Path) -> dict[str, TensorLayout]:
    """By name, the tensors of a JSON file of layouts, or of the folder of a checkpoint.

    Raises:
        ValueError: it is neither, or says what cannot be; the text names file and tensor.
        OSError: it cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        return _of_checkpoint(path)
    try:
        facts = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(facts, dict) or not isinstance(facts.get("tensors"), dict):
        raise ValueError(f'{path} has no "tensors": expected {{"tensors": {{name: {{"shape": [...], ...}}}}}}')
    default = facts.get("default", {})
    found = {}
    for name, own in facts["tensors"].items():
        try:
            if not isinstance(own, dict):
                raise ValueError("expected what the tensor is in { }")
            found[name] = _of_json({**default, **own})
        except (KeyError, TypeError, ValueError) as error:
            what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{path}, {name!r}: {what}") from error
    return found


def save_layouts(state_dict: Mapping[str, Any], path: str | Path) -> None:
    """Writes down how the DTensors of a state dict are laid out, in dicts and lists within it too, for `merak reshard`.
    Tensors that are none are left out. The same on all ranks: let one of them call it."""
    tensors = {}
    for name, tensor in layouts.tensors_by_name(state_dict).items():
        if not isinstance(tensor, DTensor):
            continue
        shape, ranks, placements = layouts.layout_of_dtensor(tensor)
        tensors[name] = {
            "shape": list(tensor.shape),
            "dtype": layouts.dtype_name(tensor.dtype),
            "mesh": torch.tensor(ranks).reshape(shape).tolist(),
            "placements": [layouts.placement_text(placement) for placement in placements],
        }
    Path(path).write_text(json.dumps({"tensors": tensors}, indent=1))


def _of_json(facts: Mapping[str, Any]) -> TensorLayout:
    if not isinstance(facts["shape"], list) or not isinstance(facts["placements"], list | str):
        raise ValueError("a shape and placements are lists")
    shape = tuple(_whole(size, _MOST_ELEMENTS) for size in facts["shape"])
    mesh = facts["mesh"]
    if isinstance(mesh, dict):
        first, sizes = _whole(mesh.get("first", 0)), [_whole(size) for size in mesh["shape"]]
        mesh = torch.arange(first, first + _whole(math.prod(sizes))).reshape(sizes)
    if max(layouts.mesh_of(mesh)[1], default=0) > _MOST_RANKS:
        raise ValueError(f"a mesh with ranks beyond {_MOST_RANKS}")
    return TensorLayout(
        shape, layouts.dtype_named(facts["dtype"]), layouts.layout_of(mesh, facts["placements"], len(shape))
    )


def _whole(value: Any, most: int = _MOST_RANKS) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(f"{value!r}, where a whole number of 0 to {most} was expected")
    return value


def _of_checkpoint(folder: Path) -> dict[str, TensorLayout]:
    path = folder / ".metadata"
    if not path.exists():
        raise ValueError(f"{folder} is no checkpoint of torch.distributed.checkpoint: it has no .metadata")
    metadata = read_metadata(path)
    found = {}
    try:
        writers: dict[str, dict[tuple[int, ...], int]] = {}
        for index, info in metadata.storage_data.items():
            rank = re.fullmatch(r"__(\d+)_\d+\.distcp", info.relative_path)
            offset = getattr(index, "offset", None)  # values that are no tensors have none
            if rank and offset is not None:
                writers.setdefault(index.fqn, {})[_sizes(offset)] = int(rank[1])
        for name, one in metadata.state_dict_metadata.items():
            if one.name.endswith(".TensorStorageMetadata"):
                found[name] = _of_stored(name, one, writers.get(name, {}))
    except (AttributeError, TypeError, IndexError) as error:
        raise ValueError(f"{path} is no metadata that merak knows: {error}") from error
    except ValueError as error:
        raise ValueError(f"{folder}, {error}") from error
    return found


def _of_stored(name: str, stored: Named, writers: Mapping[tuple[int, ...], int]) -> TensorLayout:
    dtype = stored.properties[0] if isinstance(stored.properties, tuple) else stored.properties.state[0]
    shape = _sizes(stored.size)
    boxes = {_sizes(chunk.offsets): _sizes(chunk.sizes) for chunk in stored.chunks}
    if all(shape):  # ranks that have nothing write that down, too
        boxes = {offsets: sizes for offsets, sizes in boxes.items() if all(sizes)}
    try:
        return _of_chunks(shape, layouts.dtype_named(dtype.name.removeprefix("torch.")), boxes, writers)
    except ValueError as error:
        raise ValueError(f"{name!r}: {error}") from error


def _sizes(size: Named) -> tuple[int, ...]:
    """Of a torch.Size."""
    return tuple(int(extent) for extent in size.arguments[0])


def _of_chunks(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    boxes: Mapping[tuple[int, ...], tuple[int, ...]],
    writers: Mapping[tuple[int, ...], int],
) -> TensorLayout:
    """Of boxes that are a grid, cut as torch.chunk cuts, a rank each."""
    begins = [sorted({offsets[dim] for offsets in boxes}) for dim in range(len(shape))]
    mesh_shape, placements, ranks = [], [], []
    for dim, (extent, starts) in enumerate(zip(shape, begins, strict=True)):
        step = -(-extent // len(starts)) if extent else 1
        if starts != list(range(0, max(extent, 1), step)):
            raise ValueError(f"dimension {dim} of {extent} is cut at {starts}, as no DTensor is")
        if len(starts) > 1:
            mesh_shape.append(len(starts))
            placements.append(("shard", dim, 1, "none"))
    for offsets in itertools.product(*begins):
        if offsets not in boxes or offsets not in writers:
            raise ValueError(f"nobody wrote the part at {offsets}")
        ranks.append(writers[offsets])
    if len(set(ranks)) < len(ranks):
        raise ValueError(
            f"ranks {ranks} wrote its parts, some of them several: that is no mesh; save its layouts as JSON"
        )
    if not mesh_shape:
        mesh_shape, placements = [1], [layouts.REPLICATE]
    return TensorLayout(shape, dtype, (tuple(mesh_shape), tuple(ranks), tuple(placements)))
