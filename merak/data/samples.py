"""Samples of a data set, some at a time, as metrics need them.

A *part* is a range of samples. Its tokens lie in one array, with the offsets at which samples begin: Megatron's files
and Hugging Face's data sets give them so, without a loop over samples; others are asked for one sample after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from merak.data.megatron import MegatronDataset, Offsets, Tokens

TokensOf = str | Callable[[Any], Any]


class Part:
    """Samples `begin` to `end` of a data set.

    Args:
        tokens: where a sample has its tokens: a key, or a function of the sample. Samples that are no mappings are
            tokens themselves.
    """

    def __init__(self, dataset: Any, begin: int, end: int, tokens: TokensOf = "input_ids") -> None:
        self.dataset, self.begin, self.end, self._tokens_of = dataset, begin, end, tokens

    def __len__(self) -> int:
        return self.end - self.begin

    @cached_property
    def samples(self) -> list[Any]:
        """As the data set gives them."""
        return [self.dataset[sample] for sample in range(self.begin, self.end)]

    @cached_property
    def flat(self) -> tuple[Tokens, Offsets]:
        """All tokens, and `len(self) + 1` offsets.

        Raises:
            ValueError: a sample has no tokens of that name, or none that are integers.
        """
        if isinstance(self.dataset, MegatronDataset):
            return self.dataset.read(self.begin, self.end)
        if isinstance(self._tokens_of, str) and is_hugging_face(self.dataset):
            return _of_arrow(self.dataset, self._tokens_of, self.begin, self.end)
        rows = [self._row(sample) for sample in range(len(self))]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([row.size for row in rows], out=offsets[1:])
        return np.concatenate([np.empty(0, np.int64), *rows]), offsets

    def texts(self) -> list[bytes]:
        """By sample its text, if it is a mapping that has one, else its tokens, as bytes."""
        if not isinstance(self.dataset, MegatronDataset) and self.samples:
            first = self.samples[0]
            if isinstance(first, Mapping) and isinstance(first.get("text"), str):
                return [sample["text"].encode() for sample in self.samples]
        tokens, offsets = self.flat
        small = not tokens.size or (tokens.max() < 1 << 16 and tokens.min() >= 0)
        words = tokens.astype("<u2" if small else "<i4")
        return [words[a:b].tobytes() for a, b in pairwise(offsets)]

    def _row(self, sample: int) -> Tokens:
        found = self.samples[sample]
        if callable(self._tokens_of):
            found = self._tokens_of(found)
        elif isinstance(found, Mapping):
            if self._tokens_of not in found:
                raise ValueError(
                    f"sample {self.begin + sample} has no {self._tokens_of!r}, but {', '.join(map(str, found))}: say "
                    "where its tokens are, tokens='...', or a function of the sample"
                )
            found = found[self._tokens_of]
        row = np.asarray(found).reshape(-1)
        if row.size and row.dtype.kind not in "iu":
            raise ValueError(f"the tokens of sample {self.begin + sample} are of {row.dtype}, not integers")
        return row.astype(np.int64)


def is_hugging_face(dataset: Any) -> bool:
    """Whether it is a `datasets.Dataset`, or has what is needed of one."""
    return hasattr(dataset, "with_format") and hasattr(dataset, "column_names")


def _of_arrow(dataset: Any, column: str, begin: int, end: int) -> tuple[Tokens, Offsets]:
    if column not in dataset.column_names:
        names: Sequence[str] = dataset.column_names
        raise ValueError(f"the data set has no column {column!r}, but {', '.join(names)}: tokens='...' says which")
    lists = dataset.with_format("arrow")[begin:end][column].combine_chunks()
    if hasattr(lists, "chunks"):
        lists = lists.chunk(0)
    if lists.null_count or not hasattr(lists, "flatten"):
        raise ValueError(f"column {column!r} should be lists of tokens, without empty places")
    offsets = np.zeros(end - begin + 1, np.int64)
    np.cumsum(lists.value_lengths().to_numpy(zero_copy_only=False), out=offsets[1:])
    return lists.flatten().to_numpy(zero_copy_only=False), offsets
