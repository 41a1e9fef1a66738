"""The model: an LSTM between two large tables, of which a step touches a few rows.

    words -> rows of `embedding` [V, D] -> LSTM, D -> H -> projection, H -> D -> scores against rows of `classes`

`classes` is [V, D + 1]: the last column is the word's bias. In training the score of a target is compared with those of
a few negatives (sampled softmax): with z the scores, t the target, N the negatives and q as in `negatives`,

    loss = ln(exp z(t) + sum of exp(z(i) - ln q(i)) over i in N, i != t) - z(t)

The sum is an unbiased estimate of softmax's, in which the target itself is certain (Y. Bengio and J.-S. Senecal,
"Adaptive importance sampling to accelerate training of a neural probabilistic language model", 2008). The gradients of
both tables have rows for the words of the batch and the negatives, and for no others.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

import merak.embedding

from .negatives import Negatives
from .streams import Window

State = tuple[torch.Tensor, torch.Tensor]  # an LSTM's, each [1, streams, H]


class EmbeddingModel(nn.Module):
    """See above; `sparse` says whether the tables' gradients are sparse tensors. Weights depend on torch's seed."""

    def __init__(self, vocabulary: int, width: int, hidden: int, sparse: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, sparse=sparse)
        self.lstm = nn.LSTM(width, hidden, batch_first=True)
        self.projection = nn.Linear(hidden, width)
        self.classes = nn.Embedding(vocabulary, width + 1, sparse=sparse)
        nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(width))
        nn.init.normal_(self.classes.weight, std=0.1 / math.sqrt(width))  # at first all words are about as likely

    def tables(self) -> list[nn.Parameter]:
        """The parameters whose gradients have few rows."""
        return [self.embedding.weight, self.classes.weight]

    def others(self) -> list[nn.Parameter]:
        """The parameters whose gradients are dense."""
        return [*self.lstm.parameters(), *self.projection.parameters()]

    def forward(self, window: Window, negatives: Negatives, state: State | None) -> tuple[torch.Tensor, State]:
        """The mean loss over the window, and the LSTM's state after it."""
        contexts, state = self._contexts(window, state)
        return sampled_softmax(contexts, window.targets.flatten(), negatives, self.classes), state

    def class_table(self) -> torch.Tensor:
        """All rows of `classes`; where ranks have some columns each, gathered from them, which all must call."""
        if isinstance(self.classes, merak.embedding.ShardedEmbedding):
            return self.classes.whole_table().full_tensor()
        return self.classes.weight

    def full_loss(self, window: Window, state: State | None, classes: torch.Tensor) -> tuple[torch.Tensor, State]:
        """The same by softmax over the whole vocabulary; `classes` as class_table() has it."""
        contexts, state = self._contexts(window, state)
        return F.cross_entropy(contexts @ classes.T, window.targets.flatten()), state

    def _contexts(self, window: Window, state: State | None) -> tuple[torch.Tensor, State]:
        outputs, state = self.lstm(self.embedding(window.inputs), state)
        contexts = self.projection(outputs).flatten(0, 1)
        return F.pad(contexts, (0, 1), value=1.0), state  # the bias column counts once


def sampled_softmax(
    contexts: torch.Tensor, targets: torch.Tensor, negatives: Negatives, classes: nn.Module
) -> torch.Tensor:
    """The mean loss of `targets`, int64 [tokens], after `contexts`, float32 [tokens, columns of `classes`]."""
    rows = classes(torch.cat([targets, negatives.classes]))  # one look-up, so one sparse gradient
    of_targets, of_negatives = rows.split([len(targets), len(negatives.classes)])
    scores = (contexts * of_targets).sum(1, keepdim=True)
    others = contexts @ of_negatives.T - negatives.log_inclusion
    others = others.masked_fill(negatives.classes == targets[:, None], -math.inf)
    return F.cross_entropy(torch.cat([scores, others], 1), torch.zeros_like(targets))
