"""Draws from Python's and numpy's generators within `forward`, which are refused.

Only what torch computes is in a graph: a number that Python or numpy has drawn would be part of it as a constant, and
the same at every step. So their generators are compared around the call: one that has moved was used.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any

from merak.graph.errors import CaptureError


@contextlib.contextmanager
def draws_refused() -> Iterator[None]:
    """Raises CaptureError at its end if Python's or numpy's global generator has been used within."""
    before = _states()
    yield
    moved = [name for name, state in _states().items() if name in before and state != before[name]]
    if moved:
        raise CaptureError(
            f"`forward` draws random numbers from {' and '.join(moved)}, which a graph would repeat at every step. "
            "Draw them with torch (torch.rand), or where the batch is made, and pass them in it. (transformers' speech "
            "models do so for SpecAugment: set mask_time_prob=0.0 and mask_feature_prob=0.0, and mask the data)"
        )


def _states() -> dict[str, Any]:
    states: dict[str, Any] = {"Python's `random`": random.getstate()}
    if (numpy := sys.modules.get("numpy")) is not None:  # what was never imported was never used
        kind, keys, *rest = numpy.random.get_state()
        states["`numpy.random`"] = (kind, keys.tobytes(), *rest)
    return states
