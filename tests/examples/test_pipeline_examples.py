"""The short examples of `merak.parallelize`: four ranks against one process, and that they learn."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys

import pytest

from tests.examples.runs import DEADLINE
from tests.structure.sources import ROOT

TINY = (
    *("--steps", "8", "--global-batch", "16", "--microbatches", "4", "--log-every", "1"),
    *("--layers", "2", "--width", "16", "--learning-rate", "1e-2"),
)
PACKAGES = {
    "train_unet": "sklearn",
    "train_vowels": "transformers",
    "train_digits": "transformers",
    "train_masked_lm": "transformers",
}
SHOWN = {
    "train_unet": "skipping the stages in between: 0 to 3",
    "train_vowels": "skipping the stages in between: [0-9]",
    "train_digits": "% of 359 held-out digits read right",
    "train_masked_lm": "nats a hidden token",
}


def on_four_ranks(script: str, *options: str) -> str:
    """What a run prints."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4"]
    command = [sys.executable, *launcher, str(ROOT / "examples" / f"{script}.py"), *TINY, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def in_process(script: str, *options: str) -> int:
    """The exit status of an example as a world of one within this process, which spares the imports."""
    status: int = importlib.import_module(script).main([*TINY, *options])
    return status


def losses(printed: str) -> list[float]:
    """Of all steps, and that of the held-out data."""
    return [float(loss) for loss in re.findall(r"(?:loss|error) (\d+\.\d+)", printed)]


@pytest.mark.parametrize(
    "script",
    [
        "train_unet",
        pytest.param("train_vowels", marks=pytest.mark.slow),
        pytest.param("train_digits", marks=pytest.mark.slow),
        pytest.param("train_masked_lm", marks=pytest.mark.slow),
    ],
)
def test_four_ranks_train_what_one_process_trains(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip(PACKAGES[script])
    printed = on_four_ranks(script)
    assert in_process(script) == 0
    alone = losses(capsys.readouterr().out)
    assert losses(printed) == pytest.approx(alone, abs=1e-4, rel=0)
    assert len(alone) >= 8
    assert alone[7] < alone[0]
    assert printed.startswith("plan: ")
    assert re.search(SHOWN[script], printed)


def test_a_pipeline_that_does_not_divide_the_ranks_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    assert in_process("train_unet", "--pp", "2") == 2
    assert "--pp 2 does not divide the 1 ranks." in capsys.readouterr().err
