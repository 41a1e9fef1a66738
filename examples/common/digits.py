"""Scikit-learn's digits: 1797 handwritten ones, which come with the package."""

from __future__ import annotations

from typing import NamedTuple

import torch

from merak import _extras


class Digits(NamedTuple):
    """Images, float32 [rows, 1, 8, 8] from 0 to 1, and which digits they show, int64 [rows]."""

    images: torch.Tensor
    labels: torch.Tensor


def load_digits() -> tuple[Digits, Digits]:
    """Those to train on, and every fifth one, which is held out."""
    found = _extras.require("sklearn.datasets", extra="examples").load_digits()
    images = torch.from_numpy(found.images).float().unsqueeze(1) / 16
    labels = torch.from_numpy(found.target).long()
    held_out = torch.arange(len(labels)) % 5 == 4
    return Digits(images[~held_out], labels[~held_out]), Digits(images[held_out], labels[held_out])
