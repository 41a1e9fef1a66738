"""The examples of docs/trainer.md run, one after the other."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.backend.harness import Context
from tests.engine.trainers import as_torchrun

PAGE = Path(__file__).resolve().parents[2] / "docs" / "trainer.md"


def example(context: Context, code: str) -> tuple[list[float], list[float]]:
    os.chdir(context.folder)
    names: dict[str, Any] = {}
    with as_torchrun(context):
        exec(code, names)
    logs = names["trainer"].state.log_history
    assert Path("model/model.safetensors").exists()
    return [log["loss"] for log in logs if "loss" in log], [log["step"] for log in logs if "loss" in log]


def test_the_examples_run(run: Callable[..., list[Any]]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert "init_process_group" in blocks[0]  # which the pool of ranks has done
    code = re.sub(r"dist.init_process_group.*\n", "", "\n".join(blocks))
    outcomes = run(example, code, world_size=4, deadline=120)
    for losses, steps in outcomes:
        assert steps == [1, 2, 3, 4, 5, 6]
        assert losses == pytest.approx(outcomes[0][0])
