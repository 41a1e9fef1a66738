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
    it before the model is wrapped, and before its optimizer is made.

    Args:
        only: of name and module: whether to replace it; default: all.
        sparse, split: see `ShardedEmbedding`.
        hot: by name of module, its hot rows, see there.

    Raises:
        ValueError: a table is shared with another module, as where input and output embeddings are tied: the other
            one needs whole rows. Or there is no embedding, or one has a feature that `ShardedEmbedding` refuses. The
            model is as it was then.
    """
    found = {
        name: module
        for name, module in model.named_modules()
        if type(module) in (torch.nn.Embedding, torch.nn.EmbeddingBag) and (only is None or only(name, module))
    }
    if not found:
        raise ValueError("the model has no torch.nn.Embedding or EmbeddingBag to replace.")
    _refuse_tied(model, found)
    hot = hot or {}
    if unknown := hot.keys() - found.keys():
        raise ValueError(
            f"hot rows are named of {sorted(unknown)}, which are not among the embeddings {sorted(found)}."
        )
    made = {name: _made_from(module, mesh, sparse, split, hot.get(name)) for name, module in found.items()}
    for name, module in made.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module)
    ignored = {name for name, module in model.named_modules() if isinstance(module, ShardedEmbedding)}
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, [f"{name}.weight" for name in ignored])
    return list(made)


def _made_from(
    module: torch.nn.Module, mesh: DeviceMesh | None, sparse: bool, split: Split, hot: torch.Tensor | None
) -> ShardedEmbedding:
    if isinstance(module, torch.nn.EmbeddingBag):
        return ShardedEmbeddingBag.from_bag(module, mesh=mesh, sparse=sparse, split=split, hot=hot)
    assert isinstance(module, torch.nn.Embedding)
    return ShardedEmbedding.from_embedding(module, mesh=mesh, sparse=sparse, split=split, hot=hot)


def _refuse_tied(model: torch.nn.Module, found: dict[str, torch.nn.Module]) -> None:
    tables = {id(module.weight): name for name, module in found.items()}
    for owner, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module.named_parameters(recurse=False):
            table = tables.get(id(parameter))
            if table is not None and owner != table:
                raise ValueError(
                    f"{table}.weight is also {owner}.{name}: the two are tied, and {owner} needs whole rows. Untie "
                    "them (of a Hugging Face model: config.tie_word_embeddings = False), or leave this one out: "
                    f"only=lambda name, module: name != {table!r}."
                )
