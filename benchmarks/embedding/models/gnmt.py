"""A sequence-to-sequence model of LSTMs with attention: a third of it is embeddings.

                       published                     here
    words              32,320, source and target     4,040, source and target
    width              1,024                         128
    encoder            4 layers, the first of them bidirectional, residual from the third on; the same
    decoder            4 layers, attention after the first; the same
    output projection  1,024 x 32,320                128 x 4,040
    parameters         194 M                         3.0 M
    share of tables    34 %                          34 %
    a rank's batch                                   6 pairs of sentences of 20 words = 240 words

Published: GNMT (Y. Wu et al., "Google's neural machine translation system", 2016) with 8 layers in all and the
vocabulary of WMT16 English to German, as EmbRace (S. Li et al., 2022) trains it. Here all widths and the vocabulary are
an eighth; sentences have the same length, so that there is no padding.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .task import Batch, Task, translation

ROWS, WIDTH = 4_040, 128
SENTENCES, LENGTH = 6, 20


class Encoder(nn.Module):
    """[sentences, words, width] -> the same."""

    def __init__(self) -> None:
        super().__init__()
        self.both_ways = nn.LSTM(WIDTH, WIDTH, bidirectional=True, batch_first=True)
        self.second = nn.LSTM(2 * WIDTH, WIDTH, batch_first=True)
        self.others = nn.ModuleList(nn.LSTM(WIDTH, WIDTH, batch_first=True) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.both_ways(x)[0])[0]
        for lstm in self.others:
            x = x + lstm(x)[0]
        return x


class Attention(nn.Module):
    """Of each query, the mean of the memory, weighted by v . tanh(query + key) (D. Bahdanau et al., 2014)."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH, bias=False)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.score = nn.Linear(WIDTH, 1, bias=False)

    def forward(self, queries: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        energies = torch.tanh(self.query(queries)[:, :, None] + self.key(memory)[:, None])
        weights: torch.Tensor = self.score(energies)[..., 0].softmax(-1)
        return weights @ memory


class Decoder(nn.Module):
    """[sentences, words, width] -> the same, given the encoder's output. All layers but the first read the context."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.attention = Attention()
        self.others = nn.ModuleList(nn.LSTM(2 * WIDTH, WIDTH, batch_first=True) for _ in range(3))

    def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        x = self.first(x)[0]
        context = self.attention(x, memory)
        for depth, lstm in enumerate(self.others):
            y = lstm(torch.cat([x, context], -1))[0]
            x = y if depth == 0 else x + y
        return x


class Translator(nn.Module):
    """See above."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.source = nn.Embedding(rows, WIDTH)
        self.encoder = Encoder()
        self.target = nn.Embedding(rows, WIDTH)
        self.decoder = Decoder()
        self.output = nn.Linear(WIDTH, rows)

    def forward(self, batch: Batch) -> torch.Tensor:
        memory = self.encoder(self.source(batch["source"]))
        scores = self.output(self.decoder(self.target(batch["target"]), memory))
        return F.cross_entropy(scores.flatten(0, 1), batch["following"].flatten())


def task(divisor: int) -> Task:
    rows = ROWS // divisor
    return translation(Translator(rows), rows, SENTENCES, LENGTH)
