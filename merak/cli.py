"""The command `merak`: a table of subcommands, each brought by its room.

A subcommand's module has one function, `add_parser(subparsers)`. It adds a parser of the table's name and sets the
parser's default `run` to a function from the parsed arguments to an exit status. A room above may extend the parser of
one below: its module has one function, `extend_parser(parser)`. Only the modules of the subcommand asked for are
imported, so that `merak --help` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from merak._version import __version__


class Subcommand(NamedTuple):
    """Where a subcommand lives, and the line that describes it."""

    module: str
    help: str
    extension: str | None = None


SUBCOMMANDS = {
    "env": Subcommand("merak.backend.command", "print what was built, found and chosen"),
    "reshard": Subcommand("merak.resharding.command", "plan how tensors get from one layout to another"),
    "simulate": Subcommand("merak.pipeline.command", "simulate pipeline schedules"),
    "analyze": Subcommand("merak.data.command", "measure how hard the samples of a data set are"),
    "plan": Subcommand("merak.planner.command", "find the plan that trains a model fastest on a cluster"),
    "bench": Subcommand(
        "merak.backend.bench", "measure the collectives beside Gloo's", "merak.planner.calibrate_command"
    ),
}


def build_parser(chosen: str | None) -> argparse.ArgumentParser:
    """The parser, complete for the subcommand `chosen` and listing the names of the others."""
    parser = argparse.ArgumentParser(prog="merak", description="A torch.distributed backend.")
    parser.add_argument("--version", action="version", version=f"torch-merak {__version__}")
    subparsers = parser.add_subparsers(metavar="command", required=True)
    for name, subcommand in SUBCOMMANDS.items():
        if name == chosen:
            importlib.import_module(subcommand.module).add_parser(subparsers)
            if subcommand.extension:
                importlib.import_module(subcommand.extension).extend_parser(subparsers.choices[name])
        else:
            subparsers.add_parser(name, help=subcommand.help)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    chosen = arguments[0] if arguments else None
    parsed = build_parser(chosen).parse_args(arguments)
    status: int = parsed.run(parsed)
    return status
