"""Four ranks train what one process trains: the claim, and how far it holds.

    python benchmarks/language_model/equality.py [--backend merak] [--ranks 4] [-- --steps 300 ...]

Runs examples/train_language_model.py twice without dropout (each rank would drop other numbers), with the same global
batch: once on several ranks, once as one plain process. In exact arithmetic all losses would be equal. In float32 the
sums over a batch are added in another order, and the differences grow as training carries them on. Prints both losses
and their difference along the run, then one line of JSON, and fails where a difference exceeds its bound:

    1e-4    the loss of each of the first 50 steps
    0.02    the validation loss at the end
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train_language_model.py"
EARLY_STEPS, EARLY_BOUND, FINAL_BOUND = 50, 1e-4, 0.02


def command(ranks: int) -> list[str]:
    """What starts the example on `ranks` ranks; for one, a process without torchrun."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    return [sys.executable, *torchrun, str(EXAMPLE)]


def train(ranks: int, backend: str, output: Path, options: list[str]) -> dict[str, Any]:
    """Runs the example to its end; the content of its losses.json.

    Raises:
        subprocess.CalledProcessError: the example failed; its messages went to the terminal.
    """
    own = ["--backend", backend, "--output", str(output), "--dropout", "0"]
    subprocess.run([*command(ranks), *own, *options], check=True)
    content: dict[str, Any] = json.loads((output / "losses.json").read_text())
    return content


def differences(one: dict[str, Any], many: dict[str, Any], kind: str) -> list[float]:
    """The absolute differences of the losses of `kind`, "train" or "validation", point by point."""
    return [abs(a["loss"] - b["loss"]) for a, b in zip(one[kind], many[kind], strict=True)]


def print_table(one: dict[str, Any], many: dict[str, Any]) -> None:
    """Prints the validation losses of both runs and the largest difference of the training losses up to there."""
    training = differences(one, many, "train")
    print("step   validation, 1 process   validation, ranks   difference   largest training difference so far")
    for a, b in zip(one["validation"], many["validation"], strict=True):
        worst = max(training[: a["step"]], default=0.0)
        gap = abs(a["loss"] - b["loss"])
        print(f"{a['step']:>4}   {a['loss']:>21.6f}   {b['loss']:>17.6f}   {gap:>10.1e}   {worst:>10.1e}")


def main() -> int:
    """Runs the command line; exit status 1 where a bound does not hold."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--backend", default="merak", help="torch.distributed backend of both runs")
    parser.add_argument("--ranks", type=int, default=4, help="ranks of the distributed run")
    parser.add_argument("--output", type=Path, default=Path("runs/equality"), help="folder of both runs")
    parser.add_argument("options", nargs="*", help="after --: options of the example for both runs")
    arguments = parser.parse_args()

    many = train(arguments.ranks, arguments.backend, arguments.output / "ranks", arguments.options)
    one = train(1, arguments.backend, arguments.output / "one", arguments.options)
    early = max(differences(one, many, "train")[:EARLY_STEPS])
    final = differences(one, many, "validation")[-1]
    print_table(one, many)
    figures = {"name": "equality", "backend": arguments.backend, "ranks": arguments.ranks, "steps": len(one["train"])}
    print(json.dumps(figures | {"early_difference": early, "final_difference": final}))
    return int(early > EARLY_BOUND or final > FINAL_BOUND)


if __name__ == "__main__":
    sys.exit(main())
