"""An encoder that finds answers in texts: a fifth of it is embeddings.

                       published                     here
    words              30,522                        3,815
    width              768, inner 3,072              96, inner 384
    layers             12, of 12 heads               12, of 12 heads
    places             512                           64
    parameters         110 M                         1.7 M
    share of tables    21 %                          21 %
    a rank's batch                                   2 texts of 64 words = 128 words

Published: BERT-base (J. Devlin et al., 2018), with the head for question answering: of every word, the scores that the
answer starts, or ends, there. Here all widths, the vocabulary and the places are an eighth, without dropout and without
the pooled output, which this head does not use. The embeddings of places and segments are read whole in every step:
they are no tables here, but parameters as all others.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .task import Batch, Task, Zipf, generator

ROWS, WIDTH, INNER, LAYERS, HEADS = 3_815, 96, 384, 12, 12
TEXTS, LENGTH, QUESTION = 2, 64, 16


class AnswerFinder(nn.Module):
    """See above. The first words of a text are the question."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.words = nn.Embedding(rows, WIDTH)
        self.places = nn.Parameter(torch.randn(LENGTH, WIDTH))
        self.segments = nn.Parameter(torch.randn(2, WIDTH))
        self.norm = nn.LayerNorm(WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, dropout=0.0, activation="gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.span = nn.Linear(WIDTH, 2)
        self.segment = (torch.arange(LENGTH) >= QUESTION).long()  # no buffer, which DDP would send around in every step

    def forward(self, batch: Batch) -> torch.Tensor:
        x = self.norm(self.words(batch["words"]) + self.places + self.segments[self.segment])
        starts, ends = self.span(self.layers(x)).unbind(-1)
        return (F.cross_entropy(starts, batch["start"]) + F.cross_entropy(ends, batch["end"])) / 2


def ids(batch: Batch) -> dict[str, torch.Tensor]:
    return {"words": batch["words"]}


def task(divisor: int) -> Task:
    rows = ROWS // divisor
    zipf = Zipf(rows)

    def draw(step: int, rank: int) -> Batch:
        random = generator(step, rank)
        words = zipf.draw(random, TEXTS, LENGTH)
        start, end = torch.from_numpy(random.integers(QUESTION, LENGTH, (2, TEXTS))).sort(0).values
        return {"words": words, "start": start, "end": end}

    return Task(AnswerFinder(rows), TEXTS * LENGTH, draw, ids)
