"""The examples of docs/embedding.md run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.backend.harness import Context

PAGE = Path(__file__).resolve().parents[2] / "docs" / "embedding.md"


def example(context: Context, code: str, folder: Path) -> list[float]:
    names: dict[str, Any] = {}
    trace = folder / f"trace{context.rank}.json"
    saved = folder / "model.pt"
    exec(code.replace('"trace.json"', repr(str(trace))).replace('"model.pt"', repr(str(saved))), names)
    if context.rank == 0:
        assert torch.load(saved)["table.weight"].shape == (1000, 32)
    check_trace(json.loads(trace.read_text())["traceEvents"])
    assert names["names"] == ["table"]
    torch.manual_seed(0)
    assert not torch.equal(names["plain"].weight, torch.nn.Embedding(1000, 32).weight)  # it has been trained
    flat: list[float] = names["plain"].weight.flatten().tolist()
    return flat


def check_trace(events: list[dict[str, Any]]) -> None:
    """That every operation of the loop is there, with its times."""
    spans = {}
    for event in events:
        if event.get("name", "").startswith("merak:"):
            operation = event["name"].removeprefix("merak:")
            spans.setdefault(operation, []).append((event["ts"], event["ts"] + event["dur"]))
    assert set(spans) == {
        "embedding_announce",
        "embedding_rows",
        "embedding_gradient",
        "embedding_update",
        "all_reduce",
    }
    assert len(spans["embedding_announce"]) == 6 + 1  # the last one, that no rank has a further batch
    assert len(spans["embedding_gradient"]) == 6
    assert len(spans["embedding_update"]) == 5  # the last batch delays nothing
    first_update = min(begin for begin, _ in spans["embedding_update"])
    assert any(begin > first_update for begin, _ in spans["all_reduce"])  # of the next steps


def test_the_examples_run(run: Callable[..., list[Any]], tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert "init_process_group" in blocks[0]  # which the pool of ranks has done
    first, second = run(example, re.sub(r"dist.init_process_group.*\n", "", "\n".join(blocks)), tmp_path)
    assert first == second
