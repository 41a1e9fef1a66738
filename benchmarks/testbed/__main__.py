"""Run a program over emulated hosts, or look after the test bed.

python -m benchmarks.testbed run --hosts 4 --ranks 2 -- script.py --flag
python -m benchmarks.testbed goodput --rate 1000
python -m benchmarks.testbed clean
"""

from __future__ import annotations

import argparse
import sys

from . import Cluster, LaunchError, Topology, UnavailableError, measure_goodput, remove_stale, torchrun


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return int(options.action(options))
    except (UnavailableError, LaunchError, ValueError) as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.testbed", description="Hosts made of network namespaces (root and iproute2 needed)."
    )
    actions = parser.add_subparsers(required=True)
    run = actions.add_parser("run", help="run a program with torchrun on every host")
    run.add_argument("--hosts", type=int, default=2)
    run.add_argument("--ranks", type=int, default=1, help="ranks a host (default 1)")
    run.add_argument("--timeout", type=float, default=300.0, help="seconds for the whole run (default 300)")
    run.add_argument("program", nargs="+", help="script and its arguments, after --")
    run.set_defaults(action=_run)
    goodput = actions.add_parser("goodput", help="measure one TCP stream against the computed goodput")
    goodput.set_defaults(action=_goodput)
    for action in (run, goodput):
        action.add_argument("--rate", type=float, default=1000.0, help="Mbit/s of every link (default 1000)")
        action.add_argument("--congestion", default="reno", help="TCP congestion control (default reno)")
    clean = actions.add_parser("clean", help="remove what killed runs left behind")
    clean.set_defaults(action=_clean)
    return parser


def _run(options: argparse.Namespace) -> int:
    topology = Topology(options.hosts, round(options.rate * 1e6), congestion=options.congestion)
    with Cluster(topology) as cluster:
        torchrun(
            cluster,
            options.program,
            ranks=options.ranks,
            timeout=options.timeout,
            on_line=lambda host, line: print(f"[host {host}] {line}", flush=True),
        )
    return 0


def _goodput(options: argparse.Namespace) -> int:
    topology = Topology(2, round(options.rate * 1e6), congestion=options.congestion)
    with Cluster(topology) as cluster:
        measured = measure_goodput(cluster)
    print(f"computed {topology.goodput / 1e6:.2f} MB/s, measured {measured / 1e6:.2f} MB/s")
    return 0


def _clean(options: argparse.Namespace) -> int:
    for name in remove_stale():
        print(f"removed {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
