"""What is moved, as the published benchmarks have it, scaled down.

``1`` to ``9``: the n-to-m suite of cross-mesh resharding (arXiv 2211.05322; Alpa's benchmark/alpa/resharding/suite.py):
an int32 tensor of 16 MiB (there 2 GiB) between meshes of hosts with four ranks each. Cases 7 and 8 are the same there.

``1 to k``: its 1-to-m suite, one rank to k other hosts with two ranks each, replicated; 16 MiB (there 1 GiB).

``state dict``: a model of the shape of Llama, 36 layers, in one call: FSDP over 4 and tensor parallelism over 2 on two
hosts, to tensor parallelism over 4, on two others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.distributed.tensor import Placement, Replicate, Shard

RANKS_PER_HOST = 4
HOSTS = 5


def chunks(indices: torch.Tensor, count: int) -> list[torch.Tensor]:
    """torch.chunk's, and empty ones where that gives fewer."""
    found = list(indices.chunk(count))
    return found + [indices[:0]] * (count - len(found))


@dataclass(frozen=True)
class Side:
    """A mesh of some ranks of the cluster, and placements on it."""

    ranks: torch.Tensor
    placements: tuple[Placement, ...]

    def indices(self, dim: int, extent: int, place: list[int]) -> torch.Tensor:
        """Those of a tensor dimension that the rank at a place of the mesh has, as DTensor cuts."""
        mine = torch.arange(extent)
        for size, coordinate, placement in zip(self.ranks.shape, place, self.placements, strict=True):
            if getattr(placement, "dim", None) == dim:
                pieces = chunks(mine, getattr(placement, "split_factor", 1))
                mine = torch.cat([chunks(piece, size)[coordinate] for piece in pieces])
        return mine

    @property
    def members(self) -> list[int]:
        return [int(rank) for rank in self.ranks.flatten()]


@dataclass(frozen=True)
class Tensor:
    """One tensor on its way."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    source: Side
    target: Side

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def part(self, side: Side, rank: int) -> torch.Tensor | None:
        """What that rank has of it; None outside the mesh. Numbers that tell places apart."""
        places = (side.ranks == rank).nonzero().tolist()
        if not places:
            return None
        numbers = torch.arange(math.prod(self.shape), dtype=torch.int64).view(self.shape)
        for dim, extent in enumerate(self.shape):
            numbers = numbers.index_select(dim, side.indices(dim, extent, places[0]))
        return (numbers * 2_654_435_761 % 251).to(self.dtype)


Case = dict[str, Tensor]
"""By name: what is moved together."""


def side(first_host: int, shape: tuple[int, int], *placements: Placement) -> Side:
    """Ranks of hosts from `first_host` on: shape[0] hosts, the first shape[1] ranks of each."""
    rows = [
        range(RANKS_PER_HOST * host, RANKS_PER_HOST * host + shape[1])
        for host in range(first_host, first_host + shape[0])
    ]
    return Side(torch.tensor([list(row) for row in rows]), placements)


def published() -> dict[str, Case]:
    r, s0, s1, s2 = Replicate(), Shard(0), Shard(1), Shard(2)
    shape = (64, 256, 256)

    def case(source: Side, target: Side, shape: tuple[int, ...] = shape) -> Case:
        return {"x": Tensor(shape, torch.int32, source, target)}

    return {
        "1": case(side(0, (2, 4), s0, r), side(2, (2, 4), s0, r)),
        "2": case(side(0, (2, 4), r, r), side(2, (2, 4), s0, r)),
        "3": case(side(0, (2, 4), s1, r), side(2, (2, 4), s0, r)),
        "4": case(side(0, (2, 4), s1, s1), side(2, (2, 4), s0, s0)),
        "5": case(side(0, (2, 4), r, s0), side(2, (2, 4), s0, r)),
        "6": case(side(0, (2, 4), s0, r), side(2, (3, 4), s0, r), (192, 256, 85)),
        "7": case(side(0, (1, 4), r, s0), side(1, (2, 4), r, r)),
        "9": case(side(0, (2, 4), s1, r), side(2, (2, 4), s2, r)),
    }


def one_to_many() -> dict[str, Case]:
    r = Replicate()
    return {
        f"1 to {hosts}": {"x": Tensor((1 << 22,), torch.int32, side(0, (1, 1), r, r), side(1, (hosts, 2), r, r))}
        for hosts in (1, 2, 3, 4)
    }


def state_dict() -> Case:
    """326 tensors, 64 MiB in bf16."""
    fsdp = Side(torch.arange(8).reshape(4, 2), ())
    tp = Side(torch.tensor([8, 9, 12, 13]), ())
    hidden, kv, wide, layers, words = 256, 128, 704, 36, 13_312

    def tensor(shape: tuple[int, ...], split: int | None) -> Tensor:
        # FSDP2 cuts dimension 0 of what tensor parallelism has left.
        inner: Placement = Replicate() if split is None else Shard(split)
        outer: Placement = strided(0, 2) if split == 0 else Shard(0)
        source = Side(fsdp.ranks, (outer, inner))
        return Tensor(shape, torch.bfloat16, source, Side(tp.ranks, (inner,)))

    tensors = {"embed_tokens": tensor((words, hidden), 0), "lm_head": tensor((words, hidden), 0)}
    for layer in range(layers):
        for name, shape, split in (
            ("q_proj", (hidden, hidden), 0),
            ("k_proj", (kv, hidden), 0),
            ("v_proj", (kv, hidden), 0),
            ("o_proj", (hidden, hidden), 1),
            ("gate_proj", (wide, hidden), 0),
            ("up_proj", (wide, hidden), 0),
            ("down_proj", (hidden, wide), 1),
            ("input_layernorm", (hidden,), None),
            ("post_attention_layernorm", (hidden,), None),
        ):
            tensors[f"layers.{layer}.{name}"] = tensor(shape, split)
    return tensors


def strided(dim: int, factor: int) -> Placement:
    """FSDP2's placement outside tensor parallelism along the same dimension."""
    from torch.distributed.tensor.placement_types import _StridedShard

    return _StridedShard(dim, split_factor=factor)


def all_cases() -> dict[str, Case]:
    return published() | one_to_many() | {"state dict": state_dict()}
