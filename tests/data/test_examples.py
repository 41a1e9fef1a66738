"""The examples of data efficiency run."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.structure.sources import ROOT


@pytest.mark.parametrize(
    ("name", "said"),
    [
        pytest.param("pretrain_bert_on_less", "nats a hidden token", marks=pytest.mark.slow),
        ("pretrain_gpt_on_less", "nats a token"),
        pytest.param("train_vit_on_less", "% of 359 held-out digits read right", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("plain", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_runs(name: str, said: str, plain: bool) -> None:
    command = [sys.executable, f"examples/{name}.py", "--steps", "12", *(["--plain"] if plain else [])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    last = done.stdout.splitlines()[-1]
    assert said in last
    used = [int(number.replace(",", "")) for number in re.findall(r"([\d,]+) (?:layer|raw)", last)]
    assert used[0] == used[1] if plain else used[0] < used[1]
