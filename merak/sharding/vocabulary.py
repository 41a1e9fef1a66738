"""Embeddings and cross entropies of a vocabulary whose words are divided over ranks.

An embedding looks up what it has, and gives zeros for the rest: the sum over ranks is the whole lookup. A cross entropy
needs of all words only the largest score, the sum of exponentials and the score of the target: three numbers a row,
which are all that travels, and nothing in the backward.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from merak._torch_compat import group_by_name


def embedding_part(
    weight: torch.Tensor, ids: torch.Tensor, padding_idx: int, *, begin: int, count: int, words: int
) -> torch.Tensor:
    """Rows of this rank's words, zeros for those of others.

    Args:
        padding_idx: of the whole table; -1 for none.
        begin, count: which words this rank has, of `words`.

    Raises:
        IndexError: an id is none of a word. (On a GPU nobody looks, since that would wait for it: zeros come of it.)
    """
    local: torch.Tensor = _of_words(ids, words, None) - begin
    is_here = (local >= 0) & (local < count)
    rows = torch.nn.functional.embedding(
        torch.where(is_here, local, 0) if count else torch.zeros_like(local),
        weight if count else weight.new_zeros(1, weight.shape[1]),
        padding_idx - begin if begin <= padding_idx < begin + count else None,
    )
    rows = rows * is_here.unsqueeze(-1).to(rows.dtype)
    # Who has no words depends on the table all the same: what its gradient sets off must happen on all ranks.
    return rows if count else rows + weight.sum() * 0


@torch.library.custom_op("merak::sharding_words", mutates_args=())
def _of_words(numbers: torch.Tensor, words: int, ignored: int | None) -> torch.Tensor:
    """The numbers, if each is one of a word: an operation, so that `torch.compile` looks at them too."""
    if numbers.device.type == "cpu":
        outside = (numbers < 0) | (numbers >= words)
        if ignored is not None:
            outside &= numbers != ignored
        if outside.any():
            raise IndexError(f"{int(numbers[outside][0])} is no word of a vocabulary of {words}")
    return numbers.clone()


@_of_words.register_fake
def _(numbers: torch.Tensor, words: int, ignored: int | None) -> torch.Tensor:
    return torch.empty_like(numbers)


class Words(NamedTuple):
    """A vocabulary that is divided: which words this rank has, of how many, and the name of the group of all."""

    begin: int
    length: int
    words: int
    group: str


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: torch.Tensor, targets: torch.Tensor, how: tuple[Any, ...]) -> torch.Tensor:
        (begin, count, words, group), reduction, ignored, smoothing = how
        largest = scores.amax(-1) if count else scores.new_full(scores.shape[:1], -torch.inf)
        largest = _over(largest, group, "max")
        shifted = scores - largest.unsqueeze(-1)
        local = targets - begin
        is_here = (local >= 0) & (local < count)
        at = torch.where(is_here, local, 0).unsqueeze(-1)
        own = shifted.gather(-1, at).squeeze(-1) if count else torch.zeros_like(largest)
        exponentials = shifted.exp()
        sums = torch.stack([exponentials.sum(-1), torch.where(is_here, own, 0), shifted.sum(-1)])
        total, of_target, of_all = _over(sums, group, "sum")
        losses = total.log() - of_target
        if smoothing:
            losses = (1 - smoothing) * losses + smoothing * (total.log() - of_all / words)
        counted = targets != ignored
        ctx.save_for_backward(exponentials, total, at, is_here, counted)
        ctx.how = how
        losses = torch.where(counted, losses, 0)
        return losses.sum() if reduction == 2 else losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        exponentials, total, at, is_here, counted = ctx.saved_tensors
        (_, _, words, _), _, _, smoothing = ctx.how
        back = exponentials / total.unsqueeze(-1)
        if smoothing:
            back -= smoothing / words
        if back.shape[-1]:
            back.scatter_add_(-1, at, -(1 - smoothing) * is_here.unsqueeze(-1).to(back.dtype))
        return back * (gradient * counted.to(back.dtype)).unsqueeze(-1), None, None


def cross_entropy(
    scores: torch.Tensor,
    targets: torch.Tensor,
    reduction: int,
    ignore_index: int,
    label_smoothing: float,
    own: tuple[int, int, int, str],
) -> Any:
    """Of scores (rows, own words) and targets (rows), the same on all ranks.

    Args:
        reduction: 0 for each row's, 1 for the mean of those that count, 2 for the sum.
        own: as `Words`.
    """
    targets = _of_words(targets, own[2], ignore_index)
    if reduction == 1:
        total = _CrossEntropy.apply(scores, targets, (own, 2, ignore_index, label_smoothing))
        return total / (targets != ignore_index).sum()
    return _CrossEntropy.apply(scores, targets, (own, reduction, ignore_index, label_smoothing))


@torch.library.custom_op("merak::sharding_over", mutates_args=())
def _over(x: torch.Tensor, group: str, how: str) -> torch.Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    operation = torch.distributed.ReduceOp.MAX if how == "max" else torch.distributed.ReduceOp.SUM
    torch.distributed.all_reduce(total, op=operation, group=group_by_name(group))
    return total


@_over.register_fake
def _(x: torch.Tensor, group: str, how: str) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)
