"""The example of docs/engine.md runs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.backend.harness import Context

PAGE = Path(__file__).resolve().parents[2] / "docs" / "engine.md"


def example(context: Context, code: str) -> tuple[float, bool]:
    os.chdir(context.folder)
    names: dict[str, Any] = {}
    exec(code, names)
    return names["evaluation"].loss, Path("checkpoint").is_dir()


def test_the_example_runs(run: Callable[..., list[Any]]) -> None:
    pytest.importorskip("transformers")
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert "init_process_group" in block  # which the pool of ranks has done
    results = run(example, re.sub(r"dist.init_process_group.*\n", "", block), world_size=4)
    assert len({loss for loss, _ in results}) == 1
    assert all(saved for _, saved in results)
