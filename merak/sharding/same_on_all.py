"""Whether the ranks of a mesh were given the same, by numbers that stand for it. What they were not given, they would
compute with all the same: a model that is stitched from two, say, or a loss of a batch that nobody has."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def bits_of(tensor: torch.Tensor) -> int:
    """The sum of a tensor's bits, in words of its elements' size: the same wherever it is computed, in any order."""
    numbers = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    words = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[numbers.element_size()]
    return int(numbers.contiguous().view(words).sum(dtype=torch.int64))


def number_of(text: str) -> int:
    """A text as a number of 63 bits; others have others."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def lines_of(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """What differs if tensors do."""
    return [
        f"{name}, {tuple(one.shape)} of {one.dtype}, with bits that sum to {bits_of(one.detach())}"
        for name, one in tensors.items()
        if not one.is_meta
    ]


def check_same(mesh: DeviceMesh, what: str, lines: Sequence[str], advice: str) -> None:
    """Collective over the mesh.

    Args:
        what: was given, for the error.
        lines: the same on all ranks, if they were given the same.
        advice: what to do.

    Raises:
        ValueError: on all ranks, with the first line that is another elsewhere.
    """
    device = torch.device("cuda", torch.cuda.current_device()) if mesh.device_type == "cuda" else torch.device("cpu")
    if any(_differ(mesh, [len(lines), number_of("\n".join(lines))], device)):
        count = _least(mesh, [len(lines)], device)[0]
        differ = _differ(mesh, [number_of(line) for line in lines[:count]], device)
        odd = next((line for line, is_odd in zip(lines, differ, strict=False) if is_odd), "how many there are")
        raise ValueError(f"{what} are not the same on all ranks of the mesh: {advice}. The first that differ: {odd}")


def _differ(mesh: DeviceMesh, numbers: Sequence[int], device: torch.device) -> Iterator[bool]:
    least, negated = _least(mesh, numbers, device), _least(mesh, [-one for one in numbers], device)
    return (one != -other for one, other in zip(least, negated, strict=True))


def _least(mesh: DeviceMesh, numbers: Sequence[int], device: torch.device) -> list[int]:
    """Each number's least over all ranks: over one axis after the other."""
    tensor = torch.tensor(numbers, dtype=torch.int64, device=device)
    for name in mesh.mesh_dim_names or ():
        dist.all_reduce(tensor, dist.ReduceOp.MIN, group=mesh.get_group(name))
    return [int(one) for one in tensor]
