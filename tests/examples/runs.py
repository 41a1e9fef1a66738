"""Runs examples/train_language_model.py as users do, on a model so small that a step takes milliseconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.structure.sources import ROOT

BACKEND = "merak"
STEPS = 50
TINY = (
    f"--backend {BACKEND} --steps {STEPS} --warmup 5 --layers 1 --width 32 --heads 2 --block 32 --vocabulary 300 "
    "--global-batch 8 --evaluate-every 25 --checkpoint-every 20"
).split()
DEADLINE = 600  # seconds; a run takes a few, but the imports of four ranks take minutes on a crowded machine


def command(ranks: int, output: Path, *options: str, torchrun: tuple[str, ...] = ()) -> list[str]:
    """The command line of a run: `ranks` of torchrun with its own options, or for one rank a plain process."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), *torchrun]
    script = str(ROOT / "examples" / "train_language_model.py")
    return [sys.executable, *(launcher if ranks > 1 else []), script, *TINY, "--output", str(output), *options]


def run(ranks: int, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs to the end; the result holds the exit status and what was printed."""
    return subprocess.run(
        command(ranks, output, *options), capture_output=True, text=True, timeout=DEADLINE, check=False
    )


def content(output: Path) -> dict[str, Any]:
    """What the run wrote into losses.json."""
    loaded: dict[str, Any] = json.loads((output / "losses.json").read_text())
    return loaded


def losses(output: Path, kind: str) -> dict[int, float]:
    """The losses of `kind`, "train" or "validation", by step."""
    return {point["step"]: point["loss"] for point in content(output)[kind]}
