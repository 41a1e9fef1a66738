"""What optimizers remember of tables, in checkpoints.

A rank's optimizer remembers what belongs to its part. In a state dict those are made one with the other ranks', a
DTensor of the table's shape, as the table itself is; so that torch.distributed.checkpoint saves all of it, and loads it
into any number of ranks, of tables that are split either way. So are numbers a row where tables are split by rows;
where they are split by columns all ranks have the same ones, which stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from merak.embedding.module import ShardedEmbedding, table_of


def save_whole(optimizer: torch.optim.Optimizer) -> None:
    """Makes `optimizer.state_dict()` have what it remembers of `ShardedEmbedding` tables whole, as DTensors, and
    `load_state_dict` take that, or whole tensors. For optimizers of torch.optim; those of `merak.embedding` do so
    without it.

    torch.distributed.checkpoint makes the state of an optimizer that has none by a step with dense gradients, which
    SparseAdam refuses: there, `merak.embedding.AdamW(weight_decay=0)` does the same and can be loaded.
    """
    optimizer.register_state_dict_post_hook(made_whole)
    optimizer.register_load_state_dict_pre_hook(cut_to_parts)


def made_whole(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """A state dict of this rank's parts, with DTensors in their place."""

    def change(table: ShardedEmbedding, value: torch.Tensor) -> torch.Tensor:
        part = table.weight.shape
        return table.whole(value) if value.shape == part or (table.by_rows and value.shape == part[:1]) else value

    return _changed(optimizer, state_dict, change)


def cut_to_parts(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """The way back."""

    def change(table: ShardedEmbedding, value: torch.Tensor) -> torch.Tensor:
        whole = (table.num_embeddings, table.embedding_dim)
        if value.shape not in (whole, whole[:1]):
            return value
        return table.part_of(value).clone(memory_format=torch.contiguous_format)

    return _changed(optimizer, state_dict, change)


def saved_of(
    optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]
) -> Iterator[tuple[torch.Tensor, int | str, dict[str, Any]]]:
    """Parameters of an optimizer, each with the key of its state, and the state itself."""
    for group, saved in zip(optimizer.param_groups, state_dict["param_groups"], strict=False):
        for parameter, key in zip(group["params"], saved["params"], strict=False):
            if key in state_dict["state"]:
                yield parameter, key, state_dict["state"][key]


def _changed(
    optimizer: torch.optim.Optimizer,
    state_dict: dict[str, Any],
    change: Callable[[ShardedEmbedding, torch.Tensor], torch.Tensor],
) -> dict[str, Any]:
    states = dict(state_dict["state"])
    for parameter, key, state in saved_of(optimizer, state_dict):
        table = table_of(parameter)
        if table is not None:
            states[key] = {
                name: change(table, value) if isinstance(value, torch.Tensor) else value
                for name, value in state.items()
            }
    return {**state_dict, "state": states}
