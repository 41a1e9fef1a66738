"""An LSTM language model with a sampled softmax: nearly all of it is embeddings.

                       published                     here
    words              793,471                       28,881
    width of tables    512, two of them              512, two of them
    recurrent part     LSTM of 2,048 units           LSTM of 32 units, between projections from 512 columns to 32
    parameters         835 M                         29.6 M
    share of tables    97.3 %                        99.9 %
    a rank's batch                                   64 streams of 32 words = 2,048, and 256 negatives of its own

Published: the one-billion-word model (R. Jozefowicz et al., "Exploring the limits of language modeling", 2016), as the
embedding-dominated model of EmbRace (S. Li et al., 2022) has it. The recurrent part is that narrow because one core
computes it here, where a GPU would. A word is scored in 32 columns as well: rows of both tables are projected first.

The loss compares a target's score with those of negatives, drawn with replacement from the log-uniform distribution p:
each score less ln(negatives * p), so that the sum over them estimates the softmax's.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .task import Batch, Task, Zipf, generator

ROWS, WIDTH, UNITS = 28_881, 512, 32
STREAMS, LENGTH, NEGATIVES = 64, 32, 256


class LanguageModel(nn.Module):
    """See above."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.input = nn.Embedding(rows, WIDTH)
        self.narrow = nn.Linear(WIDTH, UNITS)
        self.lstm = nn.LSTM(UNITS, UNITS, batch_first=True)
        self.output = nn.Embedding(rows, WIDTH)
        self.narrow_output = nn.Linear(WIDTH, UNITS, bias=False)

    def forward(self, batch: Batch) -> torch.Tensor:
        contexts = self.lstm(self.narrow(self.input(batch["words"])))[0].flatten(0, 1)
        candidates = self.narrow_output(self.output(scored(batch)))
        targets, negatives = batch["targets"].flatten(), batch["negatives"]
        of_targets, of_negatives = candidates.split([len(targets), len(negatives)])
        scores = (contexts * of_targets).sum(1, keepdim=True)
        others = contexts @ of_negatives.T - batch["log_counts"]
        others = others.masked_fill(negatives == targets[:, None], -math.inf)
        return F.cross_entropy(torch.cat([scores, others], 1), torch.zeros_like(targets))


def scored(batch: Batch) -> torch.Tensor:
    """The words that are scored: one lookup of the output table."""
    return torch.cat([batch["targets"].flatten(), batch["negatives"]])


def ids(batch: Batch) -> dict[str, torch.Tensor]:
    return {"input": batch["words"], "output": scored(batch)}


def log_uniform(random: np.random.Generator, rows: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Words drawn with p(i) = ln((i + 2) / (i + 1)) / ln(rows + 1), and ln(count * p) of each."""
    drawn = np.minimum(np.exp(random.random(count) * np.log(rows + 1)).astype(np.int64) - 1, rows - 1)
    counts = count * np.log((drawn + 2) / (drawn + 1)) / np.log(rows + 1)
    return torch.from_numpy(drawn), torch.from_numpy(np.log(counts).astype(np.float32))


def task(divisor: int) -> Task:
    rows = ROWS // divisor
    zipf = Zipf(rows)

    def draw(step: int, rank: int) -> Batch:
        random = generator(step, rank)
        text = zipf.draw(random, STREAMS, LENGTH + 1)
        negatives, log_counts = log_uniform(random, rows, NEGATIVES)
        words, targets = text[:, :-1].contiguous(), text[:, 1:].contiguous()
        return {"words": words, "targets": targets, "negatives": negatives, "log_counts": log_counts}

    return Task(LanguageModel(rows), STREAMS * LENGTH, draw, ids)
