"""Do lossy gradients train as well as exact ones? The example's losses and bytes, over seeds.

    python benchmarks/sparse/convergence.py --reduces exact gloo --seeds 0 1 2 [--output FILE] [-- --steps 200 ...]

Runs examples/train_embedding_model.py on several ranks once a seed and way, one after the other, the ways of a seed in
turn. A way is a value of `--reduce`, with further options of the example after it if it is quoted: "dense --steps 9".
What stands after `--` goes to all. Prints, over the seeds, mean and standard deviation of the last validation loss, of
its difference from the first way's with the same seed (same weights, texts and negatives, so the spread of the seeds
themselves drops out), and the mean of the bytes that all ranks sent; writes every run's figures as JSON, one a line.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train_embedding_model.py"

Record = dict[str, Any]
"""The figures of a run."""


def train(way: str, seed: int, ranks: int, options: list[str]) -> Record:
    """Runs the example to its end.

    Raises:
        subprocess.CalledProcessError: the example failed; its messages went to the terminal.
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    with tempfile.TemporaryDirectory() as output:
        own = ["--output", output, "--seed", str(seed), "--reduce", *shlex.split(way)]
        subprocess.run([*torchrun, str(EXAMPLE), *options, *own], check=True)
        return figures(way, json.loads((Path(output) / "losses.json").read_text()))


def figures(way: str, losses: dict[str, Any]) -> Record:
    """What is kept of a run's losses.json."""
    session = losses["session"]
    return {
        "way": way,
        "seed": losses["run"]["seed"],
        "ranks": losses["ranks"],
        "run": losses["run"],
        "validation": losses["validation"],
        "loss": losses["validation"][-1]["loss"],
        "bytes_sent": session["bytes_sent"],
        "sparse_bytes_sent": session["bytes_sent"] and sum(losses["sparse_bytes_sent"].values()),
        "seconds": session["seconds"],
        "waited_per_step": losses["waited_per_step"],
    }


def table(records: list[Record]) -> str:
    """The ways in the order of their first runs, one a line."""
    ways = list(dict.fromkeys(record["way"] for record in records))
    first = {record["seed"]: record["loss"] for record in records if record["way"] == ways[0]}
    width = max(map(len, [*ways, "way"]))
    lines = [
        f"{'way':{width}} {'runs':>5} {'validation loss':>18} {'less the first':>20} {'GB sent':>8} {'rows, GB':>8}"
    ]
    for way in ways:
        runs = [record for record in records if record["way"] == way]
        loss = mean_and_deviation([run["loss"] for run in runs], 4)
        paired = [run["loss"] - first[run["seed"]] for run in runs if run["seed"] in first]
        difference = mean_and_deviation(paired, 5)
        sent, rows = (
            gigabytes([run["bytes_sent"] for run in runs]),
            gigabytes([run["sparse_bytes_sent"] for run in runs]),
        )
        lines.append(f"{way:{width}} {len(runs):>5} {loss:>18} {difference:>20} {sent:>8} {rows:>8}")
    return "\n".join(lines)


def mean_and_deviation(values: list[float], digits: int) -> str:
    """Mean and standard deviation; of one value, which has none, the value."""
    if len(values) < 2:
        return "".join(f"{value:.{digits}f}" for value in values)
    return f"{statistics.mean(values):.{digits}f} +- {statistics.stdev(values):.{digits}f}"


def gigabytes(counts: list[int | None]) -> str:
    """The mean, or n/a where the backend does not count."""
    known = [count for count in counts if count is not None]
    return f"{statistics.mean(known) / 1e9:.3f}" if known else "n/a"


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--reduces", nargs="+", default=["exact"], help="values of --reduce, quoted if options follow")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default 0 1 2)")
    parser.add_argument("--ranks", type=int, default=4, help="ranks of each run (default 4)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the figures there, one line of JSON a run")
    parser.add_argument("options", nargs="*", help="after --: options of the example for all runs")
    arguments = parser.parse_args()

    records: list[Record] = []
    for seed in arguments.seeds:
        for way in arguments.reduces:
            print(f"== {way}, seed {seed}", flush=True)
            records.append(train(way, seed, arguments.ranks, arguments.options))
            if arguments.output:
                arguments.output.write_text("".join(json.dumps(record) + "\n" for record in records))
    print(table(records))
    return 0


if __name__ == "__main__":
    sys.exit(main())
