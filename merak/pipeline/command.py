"""`merak simulate`: how long a pipeline schedule takes, as a chart, a table, a picture or a trace. Nothing runs."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merak._extras import require
from merak.pipeline.chart import cells, chart
from merak.pipeline.compare import comparison
from merak.pipeline.schedule import KINDS, Schedule
from merak.pipeline.simulation import Costs, OfStages, Simulation

if TYPE_CHECKING:
    from argparse import ArgumentParser, _SubParsersAction

_STYLES = {
    "F": "white on blue",
    "B": "black on green",
    "I": "black on cyan",
    "W": "black on yellow",
    "R": "black on red",
}


def add_parser(subparsers: _SubParsersAction[ArgumentParser]) -> None:
    """Adds the parser of `merak simulate`."""
    parser = subparsers.add_parser(
        "simulate",
        allow_abbrev=False,  # --stages would be taken for --stages-per-rank
        help="simulate pipeline schedules",
        description="Simulates a pipeline schedule and prints what each rank does when. Seconds and bytes of computing "
        "are those of all of a rank's stages together, for one micro-batch; or a list, such as 1,1,2,1, has one for "
        "each stage.",
    )
    add = parser.add_argument
    add("--schedule", default="1f1b", metavar="KIND", help=f"{', '.join(KINDS)}, or a CSV file (default 1f1b)")
    add("--ranks", type=int, default=4, metavar="P", help="(default 4)")
    add("--stages-per-rank", type=int, metavar="V", help="(default 1; 2 for zbv, interleaved and looped-bfs)")
    add("--microbatches", type=int, default=8, metavar="M", help="(default 8)")
    add("--recomputing", default=None, metavar="STAGES", help="all, none, or such as 0,1 (default: what the kind does)")
    add("--receives-ahead", type=int, metavar="N", help="actions before its use that a receive is posted (default 2)")
    _add_costs(parser)
    add("--compare", action="store_true", help="a table of all schedules instead")
    add("--width", type=int, metavar="N", help="columns of the chart (default: the terminal's)")
    add("--picture", type=Path, metavar="FILE", help="draw it there: .png, .svg, .pdf")
    add("--trace", type=Path, metavar="FILE", help="write a Chrome trace there, for https://ui.perfetto.dev")
    add("--csv", type=Path, metavar="FILE", help="write the schedule there, as torch.distributed.pipelining does")
    parser.set_defaults(run=run)


def _add_costs(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--forward", type=_numbers, default=1.0, metavar="S", help="seconds of F (default 1)")
    add("--backward", type=_numbers, metavar="S", help="seconds of B (default: twice F); I and W take half of it each")
    add("--recompute", type=_numbers, metavar="S", help="seconds of R (default: those of F)")
    add("--reduction", type=_numbers, default=0.0, metavar="S", help="seconds of REDUCE_GRAD (default 0)")
    add(
        "--message",
        type=float,
        default=0.0,
        metavar="S",
        help="seconds of a value or a gradient on the wire (default 0)",
    )
    add("--latency", type=float, default=0.0, metavar="S", help="from the wire to the receiver (default 0)")
    add("--weights", type=_numbers, default=0.0, metavar="BYTES", help="that are always there (default 0)")
    add("--activation", type=_numbers, default=1.0, metavar="BYTES", help="that a micro-batch keeps (default 1)")
    add("--checkpoint", type=_numbers, default=0.0, metavar="BYTES", help="that it keeps to recompute (default 0)")
    add("--blocking", action="store_true", help="ranks wait for what they send")
    add("--buffered", action="store_true", help="messages leave before their receives are posted")
    add("--shared-links", action="store_true", help="a rank has one link for all others, not one for each")


def _numbers(text: str) -> float | list[float]:
    numbers = [float(one) for one in text.split(",")]
    return numbers if "," in text else numbers[0]


def run(options: argparse.Namespace) -> int:
    """Simulates and prints; the exit status."""
    try:
        if options.compare:
            _refuse_files(options)
            print(comparison(options.ranks, options.microbatches, lambda stages: _costs(options, stages)))
            return 0
        schedule = _schedule(options)
        for note in schedule.notes:
            print(f"merak simulate: {note}", file=sys.stderr)
        simulation = schedule.simulate(_costs(options, schedule.n_stages // schedule.n_ranks))
        _print(simulation, options)
        if options.csv:
            simulation.schedule.to_csv(options.csv)
        if options.picture:
            simulation.picture(options.picture)
        if options.trace:
            simulation.trace(options.trace)
    except (ValueError, OverflowError, OSError, ImportError) as error:
        print(f"merak simulate: {error}", file=sys.stderr)
        return 1
    return 0


def _refuse_files(options: argparse.Namespace) -> None:
    if given := [f"--{name}" for name in ("picture", "trace", "csv") if getattr(options, name)]:
        raise ValueError(f"{' and '.join(given)}: for one schedule; leave --compare out")


def _schedule(options: argparse.Namespace) -> Schedule:
    kind = options.schedule
    if kind not in KINDS:
        if not Path(kind).exists():
            raise ValueError(f"there is no schedule '{kind}', and no file of that name; there are {', '.join(KINDS)}")
        return Schedule.from_csv(kind)
    of_rank = options.stages_per_rank or (2 if kind in ("zbv", "interleaved", "looped-bfs") else 1)
    ahead = {} if options.receives_ahead is None else {"receives_ahead": options.receives_ahead}
    return Schedule.make(
        kind,
        stages=of_rank * options.ranks,
        ranks=options.ranks,
        microbatches=options.microbatches,
        recompute=_recomputing(options.recomputing),
        **ahead,
    )


def _recomputing(text: str | None) -> bool | set[int] | None:
    if text is None or text in ("all", "none"):
        return None if text is None else text == "all"
    try:
        return {int(stage) for stage in text.split(",")}
    except ValueError:
        raise ValueError(f"--recomputing is '{text}'; it is all, none, or stages such as 0,1") from None


def _costs(options: argparse.Namespace, of_rank: int) -> Costs:
    def of_stage(value: OfStages | None) -> OfStages | None:
        return value / of_rank if isinstance(value, float) else value

    names = ("forward", "backward", "recompute", "reduction", "weights", "activation", "checkpoint")
    values: dict[str, Any] = {name: of_stage(getattr(options, name)) for name in names}
    same = ("message", "latency", "blocking", "buffered", "shared_links")
    return Costs(**values, **{name: getattr(options, name) for name in same})


def _print(simulation: Simulation, options: argparse.Namespace) -> None:
    width = options.width or shutil.get_terminal_size((120, 24)).columns
    if sys.stdout.isatty():
        _print_coloured(simulation, width)
    else:
        print(chart(simulation, width))
    print(f"\n{simulation.seconds:g} s, bubble {simulation.bubble:.1%}")
    print("\nrank  bubble  bytes at most  activations  checkpoints  receives")
    for rank, (bubble, peak) in enumerate(zip(simulation.bubbles, simulation.peaks, strict=True)):
        counts = f"{peak.activations:>11}  {peak.checkpoints:>11}  {peak.receives:>8}"
        print(f"{rank:>4}  {bubble:>6.1%}  {peak.bytes:>13g}  {counts}")


def _print_coloured(simulation: Simulation, width: int) -> None:
    text = require("rich.text", extra="viz").Text
    console = require("rich.console", extra="viz").Console(width=width)
    for rank, row in enumerate(cells(simulation, width - 9)):
        line = text(f"rank {rank:<2}  ", no_wrap=True, overflow="crop")
        for cell in row:
            line.append(cell.text.rstrip() if cell.kind else cell.text, style=_STYLES.get(cell.kind, ""))
            line.append(" " * (len(cell.text) - len(cell.text.rstrip())) if cell.kind else "")
        console.print(line)
