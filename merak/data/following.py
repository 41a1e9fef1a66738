"""How the arguments of a layer follow the tokens that it keeps.

A layer of a transformer gets, beside the hidden states, what belongs to their tokens: position ids, rotary tables, a
mask of who attends to whom. When a layer runs on some tokens only, each of them has to be reduced to those tokens; left
out, the layer would rotate by other tokens' positions, or attend across documents, and say nothing. So an argument is
either known, by its name (`FOLLOW`), or none of its dimensions is as long as the sequence; else it is refused.

A mask that is absent stays so: causal attention within the kept tokens, which are in order, is that of the whole
sequence. A mask of four dimensions says for each pair of tokens whether one attends to the other, so that it holds
whatever it came from: causality, padding, documents packed into a row, sliding windows. Attention that is told of
windows or documents in another way, as FlashAttention's kernels are, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from merak.data.tokens import gather_tokens

Follow = Mapping[str, tuple[int, ...]]

FOLLOW: Follow = {
    "attention_mask": (-2, -1),
    "causal_mask": (-2, -1),
    "position_bias": (-2, -1),
    "position_embeddings": (-2,),
    "position_ids": (-1,),
    "rotary_pos_emb": (-2,),
    "token_type_ids": (-1,),
}
"""By the argument's name, the dimensions that are tokens; of tensors of two dimensions, the last one alone."""

WHOLE = frozenset({"encoder_hidden_states", "encoder_attention_mask", "cache_position"})
"""Arguments that belong to other tokens, or to a cache."""

CACHES = frozenset({"cache", "past_key_value", "past_key_values", "layer_past"})
"""Arguments that a layer of some tokens does without: a cache with holes is of no use."""

_ELSEWHERE = ("cu_seq_lens_q", "cu_seq_lens_k", "cu_seqlens", "seq_idx")


def reduced(name: str, value: Any, index: torch.Tensor, length: int, follow: Follow) -> Any:
    """An argument, for the tokens of `index`, `[sequences, kept]`, of `length`.

    Raises:
        ValueError: it cannot be told how the argument follows the tokens.
    """
    if name in CACHES:
        return None
    if name in WHOLE and name not in follow:
        return value
    if name in _ELSEWHERE and value is not None:
        raise ValueError(
            f"the argument {name!r} says where documents begin, which does not hold of the tokens that are kept "
            "when others are dropped: use attn_implementation='sdpa' or 'eager', whose masks do"
        )
    if isinstance(value, (tuple, list)):
        return type(value)(reduced(name, one, index, length, follow) for one in value)
    if isinstance(value, torch.Tensor):
        return _reduced_tensor(name, value, index, length, follow)
    if type(value).__name__ == "BlockMask":
        raise ValueError(f"{name!r} is a mask of flex attention, which cannot be reduced: use 'sdpa' or 'eager'")
    return value


def _reduced_tensor(name: str, value: torch.Tensor, index: torch.Tensor, length: int, follow: Follow) -> torch.Tensor:
    dims = follow.get(name, FOLLOW.get(name))
    if dims is None:
        if length in value.shape:
            raise ValueError(
                f"a layer's argument {name!r} has shape {tuple(value.shape)}, and a sequence {length} tokens; it is "
                f"not known whether it follows them. Say so: RandomLTD(..., follow={{{name!r}: (1,)}}) for one whose "
                "dimension 1 is tokens, () for one that stays whole"
            )
        return value
    if not dims:
        return value
    if value.dim() == 2 and len(dims) == 2:
        dims = (-1,)
    dims = tuple(dim % max(value.dim(), 1) for dim in dims)
    pairs = len(dims) == 2
    fits = value.dim() >= 2 and all(value.shape[dim] == length or (pairs and value.shape[dim] == 1) for dim in dims)
    if not fits or (not pairs and any(size != 1 for size in value.shape[1 : dims[0]])):
        raise ValueError(
            f"a layer's argument {name!r} has shape {tuple(value.shape)}; its dimensions {dims} should be the "
            f"{length} tokens of the sequence (with a cache of earlier ones, train without: use_cache=False)"
        )
    if pairs:
        return _pairs(value, index)
    return _along(value, index, dims[0])


def _along(value: torch.Tensor, index: torch.Tensor, dim: int) -> torch.Tensor:
    if dim == 0:
        raise ValueError("tokens cannot be the first dimension, which is sequences")
    if value.shape[0] == 1:
        value = value.expand(index.shape[0], *value.shape[1:])
    return gather_tokens(value.movedim(dim, 1), index).movedim(1, dim)


def _pairs(mask: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Of `[sequences or 1, ..., tokens or 1, tokens or 1]`, the rows and columns of the index."""
    if mask.dim() == 3:
        return _pairs(mask.unsqueeze(1), index).squeeze(1)
    one = index.new_zeros(1, 1)
    rows, columns = (index if size > 1 else one for size in mask.shape[-2:])
    sequences = torch.arange(index.shape[0], device=mask.device) if mask.shape[0] > 1 else one[0]
    heads = torch.arange(mask.shape[1], device=mask.device)
    return mask[
        sequences[:, None, None, None], heads[None, :, None, None], rows[:, None, :, None], columns[:, None, None, :]
    ]
