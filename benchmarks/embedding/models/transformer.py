"""An encoder-decoder Transformer: a quarter of it is embeddings.

                       published                     here
    words              33,708, source and target     4,213, source and target
    width              1,024, inner 4,096            128, inner 512
    layers             6 + 6, of 16 heads            6 + 6, of 16 heads
    output projection  1,024 x 33,708                128 x 4,213
    parameters         280 M                         4.4 M
    share of tables    25 %                          25 %
    a rank's batch                                   2 pairs of sentences of 24 words = 96 words

Published: the big Transformer (A. Vaswani et al., "Attention is all you need", 2017) with untied tables and the
vocabulary of WMT14 English to German, as EmbRace (S. Li et al., 2022) trains it. Here all widths and the vocabulary are
an eighth; sentences have the same length, so that there is no padding, and nothing is dropped out.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from .task import Batch, Task, translation

ROWS, WIDTH, INNER, LAYERS, HEADS = 4_213, 128, 512, 6, 16
SENTENCES, LENGTH = 2, 24


class Translator(nn.Module):
    """See above."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.source = nn.Embedding(rows, WIDTH)
        self.target = nn.Embedding(rows, WIDTH)
        self.layers = nn.Transformer(WIDTH, HEADS, LAYERS, LAYERS, INNER, dropout=0.0, batch_first=True)
        self.output = nn.Linear(WIDTH, rows)
        # No buffers, which DDP would send around in every step.
        self.positions = sinusoids(LENGTH, WIDTH)
        self.later = nn.Transformer.generate_square_subsequent_mask(LENGTH)

    def forward(self, batch: Batch) -> torch.Tensor:
        source = self.source(batch["source"]) + self.positions
        target = self.target(batch["target"]) + self.positions
        scores = self.output(self.layers(source, target, tgt_mask=self.later, tgt_is_causal=True))
        return F.cross_entropy(scores.flatten(0, 1), batch["following"].flatten())


def sinusoids(length: int, width: int) -> torch.Tensor:
    """What tells words of a sentence apart by their places: [length, width], sines and then cosines."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(length)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)


def task(divisor: int) -> Task:
    rows = ROWS // divisor
    return translation(Translator(rows), rows, SENTENCES, LENGTH)
