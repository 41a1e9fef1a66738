"""What the examples of data efficiency have in common: a loop over batches, with everything counted."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from merak.data import Counters, LayerTokenLR, RandomLTD, step_flops

Batch = dict[str, torch.Tensor]


def options_of(about: str, steps: int) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plain", action="store_true", help="all samples and all tokens, as many layer-tokens")
    parser.add_argument(
        "--steps", type=int, default=steps, help="that a training without help has for its layer-tokens"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def train(
    model: nn.Module, ltd: RandomLTD, batches: Iterable[Batch], shape: Callable[[Batch], tuple[int, int]], budget: float
) -> Counters:
    """Trains until a budget of layer-tokens is used; what was used.

    Args:
        shape: of a batch: rows, and tokens as layers see them.
    """
    counters: Any = None
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for batch in batches:
        if counters is None:
            counters = Counters(ltd, flops=step_flops(ltd, batch))
            rates = LayerTokenLR(optimizer, counters, warmup_tokens=0.05 * budget, decay_tokens=budget)
        loss = model(**batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        counters.add(shape(batch))
        if ltd.current_step % 50 == 0:
            print(f"step {ltd.current_step}, loss {float(loss.detach()):.3f}, {counters}", flush=True)
        ltd.step()
        rates.step()
        if counters.reached(layer_tokens=budget):
            break
    return counters
