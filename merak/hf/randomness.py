"""The states of a process's random generators, as JSON. All ranks draw the same numbers, so one state serves all."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

FILE = "rng_state.json"


def save_state(folder: str | Path) -> None:
    """Writes Python's, NumPy's and torch's states of the CPU; the engine seeds what it draws on devices itself."""
    states = _states()
    name, keys, *rest = states["numpy"]
    states |= {"numpy": [name, keys.tolist(), *rest], "torch": states["torch"].tolist()}
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / FILE).write_text(json.dumps(states))


def load_state(folder: str | Path) -> None:
    """Sets the states that `save_state` wrote, if it did."""
    file = Path(folder) / FILE
    if file.exists():
        _set(json.loads(file.read_text()))


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Whatever is drawn within, the numbers after it are those that would have come."""
    states = _states()
    try:
        yield
    finally:
        _set(states)


def _states() -> dict[str, Any]:
    return {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.random.get_rng_state()}


def _set(states: dict[str, Any]) -> None:
    version, values, gauss = states["python"]
    random.setstate((version, tuple(values), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), *rest))
    torch.random.set_rng_state(torch.as_tensor(states["torch"], dtype=torch.uint8))
