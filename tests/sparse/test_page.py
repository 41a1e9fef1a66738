"""The example of docs/sparse.md runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.backend.harness import Context

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sparse.md"


def example(context: Context, code: str) -> None:
    names: dict[str, Any] = {}
    exec(code, names)
    assert torch.equal(names["total"].to_dense(), names["gradient"].to_dense())
    assert torch.equal(names["dense"], names["total"].to_dense())
    assert torch.equal(names["mean"].to_dense() * context.world_size, names["dense"])


def test_the_example_runs(run: Callable[..., list[Any]]) -> None:
    block = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block is not None
    assert "init_process_group" in block[1]  # which the pool of ranks has done
    run(example, re.sub(r"dist.init_process_group.*\n", "", block[1]))
