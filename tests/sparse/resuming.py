"""Saving and loading the state of a hook in the middle of training."""

from __future__ import annotations

import torch

import merak.sparse


def save_and_load(state: merak.sparse.TopKState | merak.sparse.SketchState) -> None:
    """As in a run that is resumed, but that DDP's buckets are arranged already."""
    saved = state.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in saved.values())
    state.load_state_dict(saved)
    state.steps = int(saved["steps"])
