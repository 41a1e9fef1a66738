"""Operations on tokens: some of each sequence gathered together, and put back.

Tensors of tokens are `[sequences, tokens, ...]`, of any dtype; an `index`, int64, `[sequences, kept]`, names some
tokens of each sequence, ascending, none twice. The kernels are C++, on CPU and CUDA (csrc/data/move_tokens.h); here are
their shapes for `torch.compile` and `torch.export`, and their derivatives: gathering and placing are each other's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from merak import _C

__all__ = ["apply_to_tokens", "gather_tokens", "keep_tokens", "place_tokens", "scatter_tokens"]

assert _C  # it registers the operations

Fake = TypeVar("Fake", bound=Callable[..., Any])


def gather_tokens(full: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`part[s, j] = full[s, index[s, j]]`, `[sequences, kept, ...]`.

    Raises:
        ValueError: shapes, dtypes or devices do not fit; on CPU also indices that do not ascend below the number of
            tokens (a GPU would have to be waited for).
    """
    part: torch.Tensor = torch.ops.merak.gather_tokens(full, index)
    return part


def place_tokens(part: torch.Tensor, index: torch.Tensor, length: int) -> torch.Tensor:
    """Zeros, `[sequences, length, ...]`, but for the tokens of the index, which are those of `part`. Raises alike."""
    full: torch.Tensor = torch.ops.merak.place_tokens(part, index, length)
    return full


def scatter_tokens(full: torch.Tensor, part: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """A copy of `full` with the tokens of the index replaced by those of `part`. Raises as above."""
    result: torch.Tensor = torch.ops.merak.scatter_tokens(full, part, index)
    return result


def apply_to_tokens(
    function: Callable[[torch.Tensor], torch.Tensor], full: torch.Tensor, index: torch.Tensor
) -> torch.Tensor:
    """`scatter_tokens(full, function(gather_tokens(full, index)), index)`, with a backward of fewer copies.

    The gradient of a token of the index comes through the function alone, that of another past it alone. So the
    gradient of the result serves as that of all that goes past, and its tokens of the index are replaced in the end;
    as two derivatives that know nothing of each other, they would be set to zero, padded with zeros, and added. A
    captured graph has those two, whose numbers are the same: it is made of operations.
    """
    if torch.compiler.is_exporting():
        return scatter_tokens(full, function(gather_tokens(full, index)), index)
    part, rest = _Take.apply(full, index)
    result: torch.Tensor = _Put.apply(rest, function(part), index)
    return result


class _Take(torch.autograd.Function):
    """Tokens of the index, and all of them to go past."""

    @staticmethod
    def forward(ctx: Any, full: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(index)
        return gather_tokens(full, index), full.view_as(full)

    @staticmethod
    def backward(ctx: Any, of_part: torch.Tensor, of_rest: torch.Tensor) -> tuple[torch.Tensor, None]:
        return scatter_tokens(of_rest, of_part, *ctx.saved_tensors), None


class _Put(torch.autograd.Function):
    """Puts tokens in their places. Its gradient of `rest` is wrong at the tokens of the index: `_Take` mends it."""

    @staticmethod
    def forward(ctx: Any, rest: torch.Tensor, part: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(index)
        return scatter_tokens(rest, part, index)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        return gradient, gather_tokens(gradient, *ctx.saved_tensors), None


def keep_tokens(
    sequences: int,
    length: int,
    kept: int,
    *,
    seed: int,
    step: int,
    microbatch: int,
    layer: int,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """An index of `kept` of `length` tokens for each sequence, all choices equally likely.

    A function of its arguments alone, the same bits on any device: of the number of the step, of the micro-batch
    (counted over all ranks), of the layer, and of the sequence's row in the micro-batch.

    Raises:
        ValueError: `kept` is not between 1 and `length`.
    """
    index = torch.empty(sequences, kept, dtype=torch.int64, device=device)
    torch.ops.merak.keep_tokens_(index, length, seed, step, microbatch, layer)
    return index


def register_fake(operation: str) -> Callable[[Fake], Fake]:
    """A decorator of the function that says what comes out of an operation of the C++ side, without doing it."""
    register: Callable[[Fake], Fake] = torch.library.register_fake(operation)
    return register


@register_fake("merak::gather_tokens")
def _(full: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return full.new_empty(full.shape[0], index.shape[1], *full.shape[2:])


@register_fake("merak::place_tokens")
def _(part: torch.Tensor, index: torch.Tensor, length: int) -> torch.Tensor:
    return part.new_empty(part.shape[0], length, *part.shape[2:])


@register_fake("merak::scatter_tokens")
def _(full: torch.Tensor, part: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(full, memory_format=torch.contiguous_format)


@register_fake("merak::keep_tokens_")
def _(index: torch.Tensor, length: int, seed: int, step: int, microbatch: int, layer: int) -> None:
    return None


def _keep_of_gather(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    full, index = inputs
    ctx.save_for_backward(index)
    ctx.length = full.shape[1]


def _differentiate_gather(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
    return place_tokens(gradient, ctx.saved_tensors[0], ctx.length), None


def _keep_of_place(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _differentiate_place(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
    return gather_tokens(gradient, *ctx.saved_tensors), None, None


def _keep_of_scatter(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(inputs[2])


def _differentiate_scatter(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
    (index,) = ctx.saved_tensors
    of_full = of_part = None
    if ctx.needs_input_grad[0]:
        nothing = gradient.new_zeros(*index.shape, *gradient.shape[2:])
        of_full = scatter_tokens(gradient, nothing, index)
    if ctx.needs_input_grad[1]:
        of_part = gather_tokens(gradient, index)
    return of_full, of_part, None


torch.library.register_autograd("merak::gather_tokens", _differentiate_gather, setup_context=_keep_of_gather)
torch.library.register_autograd("merak::place_tokens", _differentiate_place, setup_context=_keep_of_place)
torch.library.register_autograd("merak::scatter_tokens", _differentiate_scatter, setup_context=_keep_of_scatter)
