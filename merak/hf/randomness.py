"""The states of a process's random generators, as JSON. All ranks draw the same numbers, so one state serves all."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

FILE = "rng_state.json"


def save_state(folder: str | Path) -> None:
    """Writes Python's, NumPy's and torch's states of the CPU; the engine seeds what it draws on devices itself."""
    numpy: Any = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": [numpy[0], numpy[1].tolist(), *numpy[2:]],
        "torch": torch.random.get_rng_state().tolist(),
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / FILE).write_text(json.dumps(state))


def load_state(folder: str | Path) -> None:
    """Sets the states that `save_state` wrote, if it did."""
    file = Path(folder) / FILE
    if not file.exists():
        return
    state = json.loads(file.read_text())
    version, values, gauss = state["python"]
    random.setstate((version, tuple(values), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.random.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
