"""Embeddings of models that are there already."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch.nn.parallel import DistributedDataParallel

from merak.embedding.bag import ShardedEmbeddingBag
from merak.embedding.module import ShardedEmbedding, Split

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def shard(
    model: torch.nn.Module,
    mesh: DeviceMesh | None = None,
    *,
    only: Callable[[str, torch.nn.Module], bool] | None = None,
    sparse: bool = True,
    split: Split = "columns",
    hot: Mapping[str, torch.Tensor] | None = None,
) -> list[str]:
    """Replaces the `torch.nn.Embedding` and `EmbeddingBag` modules of a model, which is the same on all ranks, by
    `ShardedEmbedding` and `ShardedEmbeddingBag`, in place; and tells DDP to leave them alone. Returns their names. Call
    it before the model is wrapped, and before its optimizer is made. Embeddings that are tied to each other, as those
    of T5's encoder and decoder, become one, which has the first one's name. Modules that are `ShardedEmbedding` already
    stay as they are: DDP is told of them, too.

    Args:
        only: of name and module: whether to replace it; default: all.
        sparse, split: see `ShardedEmbedding`.
        hot: by name of module, its hot rows, see there.

    Raises:
        ValueError: a table is shared with a module that stays, as where input and output embeddings are tied: it
            needs whole rows. Or there is no embedding, or one has a feature that `ShardedEmbedding` refuses. The
            model is as it was then.
    """
    found = {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if type(module) in (torch.nn.Embedding, torch.nn.EmbeddingBag) and (only is None or only(name, module))
    }
    if "" in found:
        raise ValueError(
            "the model is itself an embedding, which cannot be replaced in place: use what from_embedding() of "
            "ShardedEmbedding, or from_bag() of ShardedEmbeddingBag, makes of it."
        )
    if not found and not _weights_of_tables(model):
        raise ValueError("the model has no torch.nn.Embedding or EmbeddingBag to replace.")
    first = _first_of_its_table(model, found)
    tables = dict.fromkeys(first.values())
    hot = hot or {}
    if unknown := hot.keys() - tables.keys():
        raise ValueError(f"hot rows are named of {sorted(unknown)}, which are not among the embeddings {list(tables)}.")
    made = {name: _made_from(found[name], mesh, sparse, split, hot.get(name)) for name in tables}
    for name, of_table in first.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, made[of_table])
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, _weights_of_tables(model))
    return list(made)


def _made_from(
    module: torch.nn.Module, mesh: DeviceMesh | None, sparse: bool, split: Split, hot: torch.Tensor | None
) -> ShardedEmbedding:
    if isinstance(module, torch.nn.EmbeddingBag):
        return ShardedEmbeddingBag.from_bag(module, mesh=mesh, sparse=sparse, split=split, hot=hot)
    assert isinstance(module, torch.nn.Embedding)
    return ShardedEmbedding.from_embedding(module, mesh=mesh, sparse=sparse, split=split, hot=hot)


def _weights_of_tables(model: torch.nn.Module) -> list[str]:
    modules = model.named_modules(remove_duplicate=False)
    return [f"{name}.weight" for name, module in modules if isinstance(module, ShardedEmbedding)]


def _first_of_its_table(model: torch.nn.Module, found: dict[str, torch.nn.Module]) -> dict[str, str]:
    """By name of each embedding, that of the first one with the same table, which stands for all of them."""
    first: dict[str, str] = {}
    owner_of: dict[int, str] = {}
    for name, module in found.items():
        first[name] = owner_of.setdefault(id(module.weight), name)
        _check_alike(name, first[name], found)
    for owner, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module.named_parameters(recurse=False):
            table = owner_of.get(id(parameter))
            if table is not None and owner not in found:
                raise ValueError(
                    f"{table}.weight is also {owner}.{name}: the two are tied, and {owner} needs whole rows. Untie "
                    "them (of a Hugging Face model: config.tie_word_embeddings = False, before it is made), or leave "
                    f"this table out: only=lambda name, module: module.weight is not model.{table}.weight."
                )
    return first


def _check_alike(name: str, first: str, found: dict[str, torch.nn.Module]) -> None:
    one, other = found[first], found[name]
    same_attributes = all(
        getattr(one, attribute, None) == getattr(other, attribute, None)
        for attribute in ("padding_idx", "mode", "include_last_offset")
    )
    if type(one) is not type(other) or not same_attributes:
        raise ValueError(
            f"{first} and {name} have the same table, but are {one} and {other}: one module cannot stand for both. "
            "Untie them, or leave them out, by `only`."
        )
