"""A GPT in plain PyTorch: pre-norm, learned positions, the output's matrix that of the input; no dropout."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn


class Output(NamedTuple):
    """Mean of nats a token."""

    loss: torch.Tensor


class Block(nn.Module):
    """A layer: `[rows, tokens, hidden]` to the same."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_feed_forward = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.attention_in, self.attention_out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.feed_forward_in, self.feed_forward_out = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Causal attention among the tokens that it is given, then the feed-forward part."""
        rows, tokens, hidden = hidden_states.shape
        three = self.attention_in(self.before_attention(hidden_states))
        query, key, value = three.view(rows, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden_states = hidden_states + self.attention_out(mixed.transpose(1, 2).reshape(rows, tokens, hidden))
        inner = F.gelu(self.feed_forward_in(self.before_feed_forward(hidden_states)))
        return hidden_states + self.feed_forward_out(inner)


class GPT(nn.Module):
    """`GPT(...)(input_ids, labels).loss`, with `labels[s, i]` the token that follows `input_ids[s, i]`."""

    def __init__(self, vocabulary: int, tokens: int, hidden: int, layers: int, heads: int) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(vocabulary, hidden), nn.Embedding(tokens, hidden)
        self.layers = nn.ModuleList(Block(hidden, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        # GPT-2's is 0.02 for 768. With that a narrow model knows the frequencies of words and nothing else for a long
        # while, and whatever shortens the while would seem to help.
        deviation = 0.02 * (768 / hidden) ** 0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                ends = name.endswith(("attention_out.weight", "feed_forward_out.weight"))
                nn.init.normal_(parameter, std=deviation / (2 * layers) ** 0.5 if ends else deviation)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> Output:
        """The loss of `[rows, tokens]`."""
        hidden = self.words(input_ids) + self.positions.weight[: input_ids.shape[1]]
        for layer in self.layers:
            hidden = layer(hidden)
        logits = self.norm(hidden) @ self.words.weight.T
        return Output(F.cross_entropy(logits.flatten(0, 1), labels.flatten()))
