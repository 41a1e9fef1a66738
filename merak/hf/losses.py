"""Losses that the arguments ask for, as functions of the model's output and the batch.

The engine takes them apart into sums over targets and their counts, so each is the mean over the global batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional as F

IGNORED = -100
Loss = Callable[[Any, Mapping[str, Any]], Any]


def smoothed(smoothing: float, shift: bool) -> Loss:
    """Cross entropy with label smoothing, as transformers' `LabelSmoother` computes it. None without labels.

    Args:
        shift: whether the targets of a position are the labels of the next.
    """

    def loss(output: Any, batch: Mapping[str, Any]) -> torch.Tensor | None:
        if batch.get("labels") is None:
            return None
        logits, labels = output["logits"] if isinstance(output, Mapping) else output[0], batch["labels"]
        if shift:
            logits, labels = logits[..., :-1, :], labels[..., 1:]
        return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, label_smoothing=smoothing)

    return loss


def of_user(function: Callable[..., torch.Tensor], shift: bool) -> Loss:
    """A user's `compute_loss_func(outputs, labels, num_items_in_batch=...)`. None without labels."""

    def loss(output: Any, batch: Mapping[str, Any]) -> torch.Tensor | None:
        labels = batch.get("labels")
        if labels is None:
            return None
        counted = labels[..., 1:] if shift else labels
        return function(output, labels, num_items_in_batch=counted.ne(IGNORED).sum())

    return loss
