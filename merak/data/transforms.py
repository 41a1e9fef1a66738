"""Sequence length as a curriculum: batches of short sequences first.

Two ways to have them from batches of long ones (C. Li et al., "The stability-efficiency dilemma: investigating sequence
length warmup for training GPT models", 2022). *Truncating* keeps the beginning of each row; the rest is not seen, in
this pass. *Reshaping* cuts rows into pieces, which become rows of a larger batch: the number of tokens stays, and so
the rows of a step grow as they get shorter.

A transform is a function of a batch and its step alone. `CurriculumLoader(transform=...)` applies it where the batch is
collated, in workers too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from merak.data.pacing import Pacing

Tensors = Mapping[str, torch.Tensor]

KEYS = ("input_ids", "attention_mask", "labels", "position_ids", "token_type_ids")
"""Entries of a batch that are `[rows, tokens]`."""


@dataclass(frozen=True)
class TruncateLength:
    """Keeps the first tokens of each row, as many as the pacing says at the batch's step.

    Attributes:
        pacing: of the length, in tokens.
        keys: entries that are `[rows, tokens, ...]`; those that a batch does not have are no matter.
    """

    pacing: Pacing
    keys: Sequence[str] = KEYS

    def __call__(self, batch: Tensors, step: int) -> dict[str, torch.Tensor]:
        """A batch with shorter rows; entries of other names as they are. Raises ValueError below one token."""
        length = _length(self.pacing, step)
        return {key: value[:, :length].contiguous() if key in self.keys else value for key, value in batch.items()}


@dataclass(frozen=True)
class ReshapeLength:
    """Cuts rows into pieces of as many tokens as the pacing says at the batch's step: more rows, shorter ones.

    A row's last tokens, fewer than a piece, are left out; so lengths that divide the row's lose nothing. Position ids
    are counted from 0 in each piece. Entries of other names must be left out of the batch, as they are of whole rows.
    """

    pacing: Pacing
    keys: Sequence[str] = KEYS

    def __call__(self, batch: Tensors, step: int) -> dict[str, torch.Tensor]:
        """A batch of pieces. Raises ValueError below one token, or for entries that are not `[rows, tokens]`."""
        length = _length(self.pacing, step)
        if other := [key for key in batch if key not in self.keys]:
            raise ValueError(f"{other[0]!r} is not known to be [rows, tokens]: take it out, or name it in `keys`")
        pieces = {key: self._cut(value, length) for key, value in batch.items()}
        if "position_ids" in pieces:
            positions = pieces["position_ids"]
            pieces["position_ids"] = positions - positions[:, :1]
        return pieces

    @staticmethod
    def _cut(value: torch.Tensor, length: int) -> torch.Tensor:
        rows, tokens = value.shape[:2]
        piece = min(length, tokens)
        count = tokens // piece
        return value[:, : count * piece].reshape(rows * count, piece, *value.shape[2:])


def _length(pacing: Pacing, step: int) -> int:
    length = int(pacing(step))
    if length < 1:
        raise ValueError(
            f"the pacing of sequence lengths is {pacing(step):g} tokens at step {step}: begin at 1 or more"
        )
    return length
