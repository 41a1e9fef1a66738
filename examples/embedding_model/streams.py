"""Which tokens make up which batch, said once for the whole job and independent of the number of ranks.

The texts are put one after another and cut into a number of *streams* of equal length, read side by side: step s reads
the s-th block of every stream, and an LSTM's state goes on from block to block. Rank r of n reads the r-th of n equal
shares of the streams, so that one process and four train on the same batches. A stream that ends starts over.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from common.options import UsageError


@dataclass(frozen=True)
class Window:
    """A block of some streams and, for every token, the one that follows: both int64 [streams, block]."""

    inputs: torch.Tensor
    targets: torch.Tensor

    def of(self, share: slice) -> Window:
        """The same block of a part of the streams."""
        return Window(self.inputs[share], self.targets[share])


class Streams:
    """`tokens` (int64 [tokens]) as `count` streams, read `block` tokens at a time.

    Raises:
        UsageError: there are too few tokens for one block of each.
    """

    def __init__(self, tokens: torch.Tensor, count: int, block: int) -> None:
        self._length = len(tokens) // count
        if self._length <= block:
            raise UsageError(
                f"{len(tokens)} tokens are too few for {count} streams of more than {block}; "
                "choose fewer --streams or a smaller --block."
            )
        self._streams = tokens[: count * self._length].view(count, self._length)
        self._block = block

    @property
    def blocks(self) -> int:
        """How many blocks there are before a stream starts over."""
        return (self._length - 1) // self._block

    def window(self, step: int) -> Window:
        """What step 0, 1, ... reads of all streams."""
        places = (step * self._block + torch.arange(self._block + 1)) % self._length
        tokens = self._streams[:, places]
        return Window(tokens[:, :-1], tokens[:, 1:])


def join_shuffled(texts: list[torch.Tensor], seed: int) -> torch.Tensor:
    """The texts one after another, in an order drawn from the seed: int64 [tokens]."""
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed))
    return torch.cat([texts[place] for place in order.tolist()])
