"""Which sequences make up which batch, said once for the whole job and independent of the number of ranks.

The *global batch* of a step is a list of rows of the data; rank r of n takes the r-th of n equal consecutive slices of
it. One process and four therefore train on the same rows in the same steps. The rows of an epoch are visited in a
random order, and the epochs follow each other without a gap: a batch may hold the end of one and the start of the next.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from common.seeds import mix

IGNORED = -100  # the target that PyTorch's cross entropy and Hugging Face's models leave out
Batch = dict[str, torch.Tensor]  # "input_ids" and "labels": int64 [sequences, tokens], what a causal model takes


class DataOrder:
    """An endless random order of `rows` rows, whose place can be saved and restored.

    The permutation itself is part of the state: a random generator of another version may draw another one.
    """

    def __init__(self, rows: int, seed: int) -> None:
        self._seed = seed
        self._epoch = torch.tensor(0)
        self._position = torch.tensor(0)  # rows of this epoch already taken
        self._permutation = self._draw(rows)

    def take(self, count: int) -> torch.Tensor:
        """The next `count` row numbers: int64 [count]."""
        taken = []
        while count > 0:
            if self._position == len(self._permutation):
                self._start_next_epoch()
            chunk = self._permutation[self._position : self._position + count]
            self._position += len(chunk)
            count -= len(chunk)
            taken.append(chunk.clone())
        return torch.cat(taken)

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors that hold the place in the order; loading into them in place restores it."""
        return {"epoch": self._epoch, "position": self._position, "permutation": self._permutation}

    def _start_next_epoch(self) -> None:
        self._epoch += 1
        self._position.zero_()
        self._permutation.copy_(self._draw(len(self._permutation)))

    def _draw(self, rows: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(mix(self._seed, int(self._epoch)))
        return torch.randperm(rows, generator=generator)


def training_batch(rows: torch.Tensor, chosen: torch.Tensor) -> Batch:
    """The batch of the rows `chosen` (int64 [sequences]) of `rows` (int64 [rows, tokens])."""
    tokens = rows[chosen]
    return {"input_ids": tokens, "labels": tokens}


def validation_batches(rows: torch.Tensor, global_batch: int, share: slice) -> Iterator[tuple[Batch, int]]:
    """This rank's slices of all rows in order, each with the number of targets in its global batch.

    Every batch has the same shape: places beyond the end of the data repeat the final row, with all targets ignored.
    """
    targets_per_row = rows.shape[1] - 1  # a sequence's first token has nothing before it to be predicted from
    for start in range(0, len(rows), global_batch):
        places = torch.arange(start, start + global_batch)
        tokens = rows[places.clamp(max=len(rows) - 1)]
        labels = tokens.masked_fill((places >= len(rows)).unsqueeze(1), IGNORED)
        real = min(global_batch, len(rows) - start)
        yield {"input_ids": tokens[share], "labels": labels[share]}, real * targets_per_row
