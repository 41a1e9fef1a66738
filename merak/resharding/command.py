"""`merak reshard`: plans how a state dict gets from one layout to another, and explains and draws the plan. Nothing is
moved, and no other process is needed."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from merak.resharding.layout_files import TensorLayout, read_layouts
from merak.resharding.layouts import LayoutTuple
from merak.resharding.plan import DEFAULT_MAX_STAGING, Move, ReshardPlan, plan_of
from merak.resharding.topology import USUAL_BANDWIDTH, Topology

if TYPE_CHECKING:
    from argparse import ArgumentParser, _SubParsersAction


def add_parser(subparsers: _SubParsersAction[ArgumentParser]) -> None:
    """Adds the parser of `merak reshard`."""
    parser = subparsers.add_parser(
        "reshard",
        help="plan how tensors get from one layout to another",
        description="Plans how all tensors of TARGET get there from SOURCE, and prints the plan: its lower bound, what "
        "each kind of plan would take, what crosses which link, who sends what when. SOURCE and TARGET are JSON files "
        "of layouts (docs/resharding.md), or folders of checkpoints of torch.distributed.checkpoint.",
    )
    add = parser.add_argument
    add("source", type=Path, help="what the tensors are laid out like")
    add("target", type=Path, help="what they are to be laid out like")
    add("--others", action="store_true", help="the target's ranks are others: they count on from the source's last one")
    add("--ranks-per-host", type=int, default=8, metavar="R", help="ranks on each host, in order (default 8)")
    add("--bandwidth", type=float, metavar="MB/S", help="of each host's link, in 10^6 bytes per second (default 119.6)")
    add("--topology", type=Path, metavar="FILE", help="instead of both: JSON, as Topology.to_json gives")
    add(
        "--max-staging",
        type=int,
        default=DEFAULT_MAX_STAGING,
        metavar="BYTES",
        help="scratch memory of a rank (64 MiB)",
    )
    add("--lines", type=int, default=40, metavar="N", help="of the order, at most (default 40)")
    add("--save", type=Path, metavar="FILE", help="write the plan there, for ReshardPlan.load")
    add("--picture", type=Path, metavar="FILE", help="draw it there: .png, .svg, .pdf")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Plans and prints; the exit status."""
    try:
        plan = _plan(options)
        print(plan.explain(options.lines))
        if options.save:
            plan.save(options.save)
        if options.picture:
            plan.picture(options.picture)
    except (ValueError, OverflowError, OSError, ImportError) as error:
        print(f"merak reshard: {error}", file=sys.stderr)
        return 1
    return 0


def _plan(options: argparse.Namespace) -> ReshardPlan:
    source, target = read_layouts(options.source), read_layouts(options.target)
    if options.others:
        first = 1 + max((rank for one in source.values() for rank in one.layout[1]), default=-1)
        target = {name: one._replace(layout=_shifted(one.layout, first)) for name, one in target.items()}
    moves = tuple(_move(name, source.get(name), one) for name, one in target.items())
    return plan_of(moves, _topology(options, moves), options.max_staging)


def _shifted(layout: LayoutTuple, by: int) -> LayoutTuple:
    shape, ranks, placements = layout
    return shape, tuple(rank + by for rank in ranks), placements


def _move(name: str, source: TensorLayout | None, target: TensorLayout) -> Move:
    if source is None:
        raise ValueError(f"{name!r} is in the target, and not in the source")
    if source.shape != target.shape:
        raise ValueError(f"{name!r} has shape {source.shape} in the source, and {target.shape} in the target")
    return Move(name, target.shape, source.dtype, target.dtype, source.layout, target.layout)


def _topology(options: argparse.Namespace, moves: tuple[Move, ...]) -> Topology:
    if options.topology:
        try:
            return Topology.from_json(json.loads(options.topology.read_text()))
        except ValueError as error:
            raise ValueError(f"{options.topology}: {error}") from error
    if options.ranks_per_host < 1:
        raise ValueError(f"--ranks-per-host is {options.ranks_per_host}; it must be 1 or more")
    ranks = 1 + max((rank for move in moves for layout in (move.source, move.target) for rank in layout[1]), default=0)
    hosts = -(-ranks // options.ranks_per_host)
    bandwidth = USUAL_BANDWIDTH if options.bandwidth is None else options.bandwidth * 1e6
    return Topology.uniform(hosts, options.ranks_per_host, bandwidth)
