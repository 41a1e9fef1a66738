"""The examples of docs/embedding.md run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.backend.harness import Context

PAGE = Path(__file__).resolve().parents[2] / "docs" / "embedding.md"


def example(_: Context, code: str) -> list[float]:
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["names"] == ["table"]
    torch.manual_seed(0)
    assert not torch.equal(names["plain"].weight, torch.nn.Embedding(1000, 32).weight)  # it has been trained
    flat: list[float] = names["plain"].weight.flatten().tolist()
    return flat


def test_the_examples_run(run: Callable[..., list[Any]]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert "init_process_group" in blocks[0]  # which the pool of ranks has done
    first, second = run(example, re.sub(r"dist.init_process_group.*\n", "", "\n".join(blocks)))
    assert first == second
