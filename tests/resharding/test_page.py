"""The examples of docs/resharding.md run, one after the other."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.backend.harness import Context

PAGE = Path(__file__).resolve().parents[2] / "docs" / "resharding.md"


def example(context: Context, code: str) -> None:
    folder = context.folder / str(context.rank)
    folder.mkdir()
    os.chdir(folder)
    names: dict[str, Any] = {}
    exec(code, names)
    whole = torch.arange(24.0).reshape(6, 4)
    if context.rank >= 2:
        assert torch.equal(names["z"].to_local(), whole.bfloat16())
        assert torch.equal(names["served"]["w"], whole.bfloat16())
        assert torch.equal(names["y"].to_local(), whole.chunk(2)[context.rank - 2])
    assert (folder / "plan.png").exists()
    assert json.loads((folder / "plan.json").read_text())["version"] == 1


def test_the_examples_run(run: Callable[..., list[Any]]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert "init_process_group" in blocks[0]  # which the pool of ranks has done
    run(example, re.sub(r"dist.init_process_group.*\n", "", "\n".join(blocks)), world_size=4)


def test_the_json_on_the_page_is_read(tmp_path: Path) -> None:
    from merak.resharding import read_layouts

    (block,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "layouts.json").write_text(block)
    assert set(read_layouts(tmp_path / "layouts.json")) == {"layers.0.wq", "norm"}
