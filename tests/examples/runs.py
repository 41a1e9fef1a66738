"""Runs examples as users do, on models so small that a step takes milliseconds."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.structure.sources import ROOT

BACKEND = "merak"
STEPS = 50
DEADLINE = 600  # seconds; a run takes a few, but the imports of four ranks take minutes on a crowded machine


@dataclass(frozen=True)
class Example:
    """An example's script, and the options that make it small."""

    script: str
    options: str

    @property
    def tiny(self) -> list[str]:
        """The options as arguments."""
        return self.options.split()

    def command(self, ranks: int, output: Path, *options: str, torchrun: tuple[str, ...] = ()) -> list[str]:
        """The command line of a run: `ranks` of torchrun with its own options, or for one rank a plain process."""
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), *torchrun]
        script = str(ROOT / "examples" / self.script)
        return [sys.executable, *(launcher if ranks > 1 else []), script, *self.tiny, "--output", str(output), *options]

    def run(self, ranks: int, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
        """Runs to the end; the result holds the exit status and what was printed."""
        return subprocess.run(
            self.command(ranks, output, *options), capture_output=True, text=True, timeout=DEADLINE, check=False
        )


LANGUAGE_MODEL = Example(
    "train_language_model.py",
    f"--backend {BACKEND} --steps {STEPS} --warmup 5 --layers 1 --width 32 --heads 2 --block 32 --vocabulary 300 "
    "--global-batch 8 --evaluate-every 25 --checkpoint-every 20",
)
EMBEDDING_MODEL = Example(
    "train_embedding_model.py",
    "--steps 12 --width 8 --hidden 8 --vocabulary 2000 --negatives 64 --streams 8 --block 8 --validation-words 128 "
    "--evaluate-every 6 --table-optimizer sgd --table-learning-rate 30",  # Adagrad would not notice a sum for a mean
)


def content(output: Path) -> dict[str, Any]:
    """What the run wrote into losses.json."""
    loaded: dict[str, Any] = json.loads((output / "losses.json").read_text())
    return loaded


def losses(output: Path, kind: str) -> dict[int, float]:
    """The losses of `kind`, "train" or "validation", by step."""
    return {point["step"]: point["loss"] for point in content(output)[kind]}
