"""The command: trains what is missing, then reports. `--report` and `--page` train nothing, `--smoke` not much."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.data.experiment import __doc__ as ABOUT
from benchmarks.data.experiment.arms import ARMS, SMOKE, WHOLE, Run, Scale, runs_in_order
from benchmarks.data.experiment.corpus import CorpusError, load_rows
from benchmarks.data.experiment.page import write_page
from benchmarks.data.experiment.report import report
from benchmarks.data.experiment.results import Results
from benchmarks.data.experiment.training import RARITY, Training
from merak.data import analyze

HERE = Path(__file__).parent
DOCS = HERE.parents[2] / "docs"
SMOKE_ARMS = ("base@50", "both@50")


def main(arguments: list[str] | None = None) -> int:
    """Runs, and prints; 1 where the text cannot be had."""
    options = _options(arguments)
    scale = SMOKE if options.smoke else WHOLE
    if options.budget:
        scale = dataclasses.replace(scale, budget=int(options.budget))
    results = Results(options.results, scale)
    if not (options.report or options.page):
        torch.set_num_threads(1)
        try:
            _run_missing(scale, results, options)
        except CorpusError as error:
            print(error, file=sys.stderr)
            return 1
    if options.page:
        write_page(results, scale, options.rates, options.seeds, DOCS)
    print("\n".join(report(results)))
    return 0


def _run_missing(scale: Scale, results: Results, options: argparse.Namespace) -> None:
    data = load_rows(scale.texts, scale.vocabulary, scale.tokens, options.cache)
    index = analyze(data.train, [RARITY], output=options.cache / data.name / "index")
    while (run := _next_run(results, options)) is not None:
        print(f"{time.strftime('%H:%M:%S')} {run.name}", flush=True)
        training = Training(run, scale, data, index, _pause(options.pause_file))
        result = training.finish(options.cache / f"unfinished-{scale.name}.safetensors")
        results.add(run, result)
        print(f"  loss {result['loss']:.4f}, {training.counters}, {result['cpu_seconds']:.0f} s of CPU", flush=True)


def _next_run(results: Results, options: argparse.Namespace) -> Run | None:
    if options.smoke:
        runs = [Run(ARMS[name], options.rates[0], 0) for name in SMOKE_ARMS]
    else:
        runs = list(runs_in_order(options.rates, options.seeds, not options.no_ideas, results.losses))
    return next((run for run in runs if not results.has(run)), None)


def _pause(file: Path | None) -> Callable[[], None]:
    """Waits while a file exists, for others who measure on this machine."""

    def between() -> None:
        while file is not None and file.exists():
            time.sleep(1)

    return between


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data.experiment", description=ABOUT)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "merak")
    parser.add_argument("--results", type=Path, default=HERE.parent / "results", help="finished runs")
    parser.add_argument("--cache", type=Path, default=cache, help="texts, tokens, and the unfinished run")
    parser.add_argument("--rates", type=float, nargs="+", default=[4e-3, 8e-3, 2e-3], help="in the order of running")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--no-ideas", action="store_true", help="leave out the departures from the recipes")
    parser.add_argument("--budget", type=float, help="layer-tokens of 100 %%, if not as published here")
    parser.add_argument("--pause-file", type=Path, help="no step is begun while this file exists")
    parser.add_argument("--report", action="store_true", help="only say what the results are")
    parser.add_argument("--page", action="store_true", help="write what the results are into docs/data_efficiency.md")
    parser.add_argument("--smoke", action="store_true", help="two arms of little, on the text that Python brings along")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
