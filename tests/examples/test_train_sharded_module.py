"""The example of a module that is divided by annotations, as a whole."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples.runs import DEADLINE
from tests.structure.sources import ROOT

TINY = ["--steps", "21", "--layers", "1", "--width", "32", "--block", "16", "--rows", "4"]


def run(ranks: int, folder: Path, *options: str) -> str:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    script = str(ROOT / "examples" / "train_sharded_module.py")
    command = [sys.executable, *launcher, script, *TINY, "--checkpoint", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_parts_train_as_one_process_and_load_into_the_plain_model(tmp_path: Path) -> None:
    printed = [run(4, tmp_path / "four"), run(1, tmp_path / "one", "--dp", "1")]
    losses = [[float(loss) for loss in re.findall(r"loss ([\d.]+)", text)] for text in printed]
    assert losses[0] == pytest.approx(losses[1], abs=2e-4)
    assert losses[0][2] < losses[0][0]
    assert all("loaded into the plain model" in text for text in printed)
    assert re.search(r"gate_and_up.weight +\(2 x tp, -\)", printed[0])
