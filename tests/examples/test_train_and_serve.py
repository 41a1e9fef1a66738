"""The example that trains on four ranks and serves on four others, as a whole."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.examples.runs import DEADLINE
from tests.structure.sources import ROOT

TINY = ["--steps", "21", "--layers", "1", "--width", "32", "--block", "16", "--batch", "2", "--characters", "5"]


def run(ranks: int, *options: str) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [sys.executable, *launcher, str(ROOT / "examples" / "train_and_serve.py"), *TINY, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)


@pytest.mark.slow
def test_the_generator_has_the_trainers_weights() -> None:
    done = run(8)
    assert done.returncode == 0, done.stderr
    assert "the generator has the trainer's weights, bit for bit" in done.stdout
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", done.stdout)]
    assert losses[-1] < losses[0]
    assert "with the weights of step 19" in done.stdout


def test_other_numbers_of_ranks_are_refused() -> None:
    done = run(2)
    assert done.returncode != 0
    assert "this runs on 8 ranks" in done.stderr
