"""From text to words, and from words to ids.

A word is a run of letters, digits and underscores (so an identifier or a number is one), or any other single character
that is no white space. Case counts. Ids are in order of frequency, the most frequent word first: the sampler of
negatives counts on it. Words that were seen once, or do not fit the vocabulary, are <unk>; every text ends with <end>.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import torch

UNKNOWN, END = "<unk>", "<end>"  # no word looks like these
_WORD = re.compile(r"\w+|[^\w\s]")
_LEAST_COUNT = 2


def words(text: str) -> list[str]:
    """The words of a text in order, and END."""
    return [*_WORD.findall(text), END]


class Vocabulary:
    """The words that have ids.

    Attributes:
        ids: by word, with UNKNOWN among them.
        types: how many different words the texts have.
    """

    def __init__(self, texts: Iterable[list[str]], size: int) -> None:
        counts = Counter(word for text in texts for word in text)
        self.types = len(counts)
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        frequent = [word for word in ranked if counts[word] >= _LEAST_COUNT][: size - 1]
        known = {word: counts[word] for word in frequent}
        known[UNKNOWN] = counts.total() - sum(known.values())
        self.ids = {word: place for place, word in enumerate(sorted(known, key=lambda word: (-known[word], word)))}

    def __len__(self) -> int:
        return len(self.ids)

    def encode(self, text: list[str]) -> torch.Tensor:
        """The ids of the words: int64 [words]."""
        unknown = self.ids[UNKNOWN]
        return torch.tensor([self.ids.get(word, unknown) for word in text], dtype=torch.int64)
