"""`merak plan` and the documentation's example."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from merak.cli import main
from merak.planner import Plan
from tests.planner.test_search import Layers, batch_of

PAGE = Path(__file__).parents[2] / "docs" / "planner.md"


def model_and_batch() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    return Layers(), batch_of()


def plan(*arguments: str) -> int:
    defaults = ["--model", f"{__name__}:model_and_batch", "--cluster", "2 x 2 RTX3090, PCIe4, 10Gbit/s", "--rows", "8"]
    return main(["plan", *defaults, *arguments])


def test_a_plan_is_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan("--output", str(tmp_path / "plan.json"), "--pp", "2") == 0
    printed = capsys.readouterr().out
    assert re.search(r"dp \d+, tp .*, pp 2: .*bf16", printed)
    assert "memory" in printed
    assert Plan.load(tmp_path / "plan.json").pp == 2


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("gpt2", {"n_layer": 2, "n_embd": 32, "n_head": 2, "vocab_size": 64}),
        ("t5", {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4, "vocab_size": 64}),
        ("vit", {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}),
    ],
)
def test_configurations_of_hugging_face(
    kind: str, sizes: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"t5": "T5ForConditionalGeneration", "vit": "ViTForImageClassification", "gpt2": "GPT2LMHeadModel"}
    facts = {"model_type": kind, "architectures": [names[kind]], **sizes}
    (tmp_path / "config.json").write_text(json.dumps(facts))
    assert plan("--model", str(tmp_path), "--sequence", "16") == 0
    assert "a step takes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--cluster", "8 A100"], "'8 A100' is no file, and no cluster in a line"),
        (["--cluster", "2 x 2 A100, PCIe4, 10Gbit/s"], "no device is called 'A100'; expected one of A100-40GB"),
        (["--model", "nothing"], "'nothing' is neither a file or folder, nor package.module:function"),
        (["--model", "merak.planner:nothing"], "merak.planner:nothing: module 'merak.planner' has no attribute"),
        (["--model", "merak:Cluster.uniform"], "merak:Cluster.uniform: module 'merak' has no attribute"),
        (["--memory", "0.0001"], "no plan fits into the devices' memory"),
        (["--dp", "3"], "no plan divides 8 rows and 4 devices as it is pinned: {'dp': 3}"),
    ],
)
def test_bad_arguments(arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(*arguments) == 1
    assert error in capsys.readouterr().err


def test_the_page_s_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    example = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    exec(compile(example, str(PAGE), "exec"), {})
    assert "the next best, and what more they spend" in capsys.readouterr().out
