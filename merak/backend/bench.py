"""`merak bench`: runs a benchmark of the checkout. The benchmarks are no part of the installed package."""

from __future__ import annotations

import argparse
import functools
import importlib
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = {
    "collectives": "every collective over merak and Gloo on emulated hosts, against the wires' lower bound",
    "sparse": "sparse all-reduces of embedding gradients beside each other on emulated hosts",
    "resharding": "tensors from one layout to another, beside other ways to send them",
    "embedding": "what a step of an embedding costs the network, split over the ranks and replicated",
    "pipeline": "steps of pipelines of emulated devices under merak and torch, beside their simulation",
}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `bench`, with one subcommand a benchmark. Without a checkout these take any options and say what to do."""
    bench = subparsers.add_parser("bench", help="measure beside others")
    benchmarks = bench.add_subparsers(metavar="benchmark")
    bench.set_defaults(run=functools.partial(_run, bench), benchmark=None)
    checkout = find_checkout()
    for name, description in BENCHMARKS.items():
        if checkout is None:
            benchmarks.add_parser(name, help=description, add_help=False, prefix_chars="\0").set_defaults(
                benchmark=_explain
            )
            benchmarks.choices[name].add_argument("options", nargs="*")
        else:
            command = _import(f"benchmarks.{name}.command", checkout)
            parser = benchmarks.add_parser(name, help=description, description=description)
            command.add_arguments(parser)
            parser.set_defaults(benchmark=command.run)


def find_checkout() -> Path | None:
    """The root of the checkout that merak runs from, or that the working directory is; None if there is none."""
    for root in (Path(__file__).resolve().parents[2], Path.cwd()):
        if (root / "benchmarks" / "testbed" / "topology.py").is_file():
            return root
    return None


def _import(module: str, checkout: Path) -> Any:
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    return importlib.import_module(module)


def _run(bench: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.benchmark is None:
        bench.error(f"name a benchmark: {', '.join(BENCHMARKS)}")
    status: int = options.benchmark(options)
    return status


def _explain(options: argparse.Namespace) -> int:
    print(
        "merak bench: the benchmarks are in merak's repository, not in the installed package. "
        "Run this command from the root of a checkout.",
        file=sys.stderr,
    )
    return 1
