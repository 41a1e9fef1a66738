"""Whole training steps of the example on emulated hosts, its tables split over the ranks and replicated.

    sudo python -m benchmarks.embedding.training [--hosts 4 8] [--steps 40] [--output FILE] [-- --block 32 ...]

Runs examples/train_embedding_model.py once a way, one rank a host, one way after the other; what stands after `--` goes
to all. Prints milliseconds a step, the share of them that the backward pass waited, and the bytes that all ranks sent.
The hosts share the cores of this machine, so that compute takes longer than on hosts of their own: what is said of
whole steps is less than such hosts would show.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.testbed import Cluster, LaunchError, Topology, UnavailableError, torchrun

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train_embedding_model.py"

WAYS = {
    "alltoall": ["--embedding", "alltoall"],
    "exact sparse": ["--reduce", "exact"],
    "gloo sparse": ["--reduce", "gloo"],
    "dense": ["--reduce", "dense"],
}

Record = dict[str, Any]


def train(way: str, topology: Topology, steps: int, options: list[str], timeout: float) -> Record:
    """The figures of a run.

    Raises:
        LaunchError: the example failed.
    """
    with tempfile.TemporaryDirectory() as output, Cluster(topology) as cluster:
        own = ["--output", output, "--steps", str(steps), "--validation-words", "1", "--evaluate-every", str(steps)]
        program = [str(EXAMPLE), *WAYS[way], *own, *options]
        torchrun(cluster, program, ranks=1, timeout=timeout, cwd=str(EXAMPLE.parents[1]), on_line=lambda *_: None)
        report = json.loads((Path(output) / "losses.json").read_text())
    return {
        "way": way,
        "hosts": topology.hosts,
        "steps": steps,
        "run": report["run"],
        "ms_per_step": report["seconds_per_step"] * 1e3,
        "waited_ms_per_step": report["waited_per_step"] * 1e3,
        "bytes_per_step": report["bytes_per_step"],  # 0: not counted
        "loss": report["validation"][-1]["loss"],
    }


def shown(records: list[Record]) -> str:
    lines = [f"{'way':14} {'ms a step':>10} {'backward waited':>16} {'MB a step':>10} {'loss':>8}"]
    for one in records:
        sent = f"{one['bytes_per_step'] / 1e6:.1f}" if one["bytes_per_step"] else ""
        times = f"{one['ms_per_step']:10.1f} {one['waited_ms_per_step']:16.1f}"
        lines.append(f"{one['way']:14} {times} {sent:>10} {one['loss']:8.4f}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--hosts", type=int, nargs="+", default=[4])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), metavar="WAY")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rate", type=float, default=1000.0, help="Mbit/s of every host's link (default 1000)")
    parser.add_argument("--timeout", type=float, default=500.0, help="seconds for each run (default 500)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the figures there as JSON, one run a line")
    parser.add_argument("options", nargs="*", help="of the example, after --")
    options = parser.parse_args(arguments)
    records: list[Record] = []
    try:
        for hosts in options.hosts:
            topology = Topology(hosts, round(options.rate * 1e6))
            of_hosts = [train(way, topology, options.steps, options.options, options.timeout) for way in options.ways]
            print(f"{hosts} hosts\n{shown(of_hosts)}", flush=True)
            records += of_hosts
    except (UnavailableError, LaunchError, ValueError) as error:
        print(f"training: {error}", file=sys.stderr)
        return 1
    if options.output:
        options.output.write_text("".join(json.dumps(record) + "\n" for record in records))
    return 0


if __name__ == "__main__":
    sys.exit(main())
