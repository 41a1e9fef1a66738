"""The examples of docs/engine.md run, one after the other."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.backend.harness import Context

PAGE = Path(__file__).resolve().parents[2] / "docs" / "engine.md"


def examples(context: Context, blocks: list[str]) -> dict[str, Any]:
    os.chdir(context.folder)
    names: dict[str, Any] = {}
    made: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
        if "engine.load" in block:  # started again, it goes on in the middle of the last epoch
            made |= {"uninterrupted": (names["loss"], names["engine"].steps)}
            exec(block, names)
            made |= {"resumed": (names["loss"], names["engine"].steps)}
    made |= {name: names[name] for name in ("accuracy", "place")} | {"loss": names["evaluation"].loss}
    weights = {name: tensor.clone() for name, tensor in names["model"].state_dict().items()}
    return made | {"weights": weights, "sample": names.get("sample"), "text": names["engine"].explain()}


def test_the_examples_run(run: Callable[..., list[Any]], tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert "init_process_group" in blocks[0]  # which the pool of ranks has done
    blocks[0] = re.sub(r"dist.init_process_group.*\n", "", blocks[0])
    first, *others = run(examples, blocks, world_size=4, deadline=120)
    for found in (first, *others):
        assert found["resumed"] == found["uninterrupted"] == first["resumed"]
        assert (found["loss"], found["accuracy"]) == (first["loss"], first["accuracy"])
        assert (found["place"]["epoch"], found["place"]["batch"]) == (1, 2)
        for name, weight in found["weights"].items():
            torch.testing.assert_close(weight, first["weights"][name], rtol=0, atol=0)
    assert first["sample"].shape == (1, 8)
    for said in ("a step by the formula that cuts are chosen by", "a step by simulation of the schedule"):
        assert said in first["text"]
    assert not re.search(r"\b0\.0+ [MG]B", first["text"]), "units fit small models"
