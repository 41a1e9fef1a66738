"""The examples of docs/sparse.md run, one after the other."""

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
    assert names["codec"].steps == 3
    assert torch.equal(names["mean"].to_dense() * context.world_size, names["dense"])


def test_the_examples_run(run: Callable[..., list[Any]]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert "init_process_group" in blocks[0]  # which the pool of ranks has done
    run(example, re.sub(r"dist.init_process_group.*\n", "", "\n".join(blocks)))
