"""`merak analyze`: metrics of a data set's samples, for a curriculum."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merak._extras import require
from merak.data.analysis import PART, analyze
from merak.data.index import MetricIndex
from merak.data.megatron import MegatronDataset
from merak.data.metrics import BUILT_IN

if TYPE_CHECKING:
    from argparse import ArgumentParser, _SubParsersAction


def add_parser(subparsers: _SubParsersAction[ArgumentParser]) -> None:
    """Adds the parser of `merak analyze`."""
    parser = subparsers.add_parser(
        "analyze",
        help="measure how hard the samples of a data set are",
        description="Computes metrics of all samples and writes them to a folder, for merak.data.CurriculumSampler. "
        "Interrupted, and called again, it does what is missing.",
    )
    add = parser.add_argument
    add(
        "data",
        type=Path,
        help="prefix of Megatron's .bin and .idx, a folder of datasets.save_to_disk, .jsonl, .parquet",
    )
    add("--output", type=Path, required=True, metavar="FOLDER", help="for the index")
    add("--metrics", nargs="+", default=["sequence_length", "vocabulary_rarity"], metavar="M", help=", ".join(BUILT_IN))
    add("--workers", type=int, default=1, metavar="N", help="processes (default 1)")
    add("--tokens", default="input_ids", metavar="COLUMN", help="of the tokens (default input_ids)")
    add("--part", type=int, default=PART, metavar="N", help=f"samples of a part (default {PART})")
    add("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Analyses and prints; the exit status."""
    try:
        index = analyze(
            _open(options.data),
            options.metrics,
            workers=options.workers,
            output=options.output,
            tokens=options.tokens,
            part=options.part,
            progress=not options.quiet,
        )
    except (ValueError, OSError, ImportError) as error:
        print(f"merak analyze: {error}", file=sys.stderr)
        return 1
    print(_table(index))
    return 0


def _open(path: Path) -> Any:
    if Path(f"{path}.idx").exists():
        return MegatronDataset(path)
    if path.suffix in (".jsonl", ".json", ".parquet") and path.exists():
        kind = "parquet" if path.suffix == ".parquet" else "json"
        return require("datasets", extra="hf").load_dataset(kind, data_files=str(path), split="train")
    if path.is_dir():
        return require("datasets", extra="hf").load_from_disk(str(path))
    raise ValueError(f"{path} is no prefix of .bin and .idx files, no folder of a data set, no .jsonl or .parquet file")


def _table(index: MetricIndex) -> str:
    shown = ("1", "10", "50", "90", "99")
    heads = ["metric", "minimum", *(f"{which} %" for which in shown), "maximum", "mean"]
    lines = [[f"{index.samples} samples"], heads]
    for name, of in index.summaries.items():
        numbers = [of["minimum"], *(of["percentiles"][which] for which in shown), of["maximum"], of["mean"]]
        lines.append([name, *(f"{number:.5g}" for number in numbers)])
    return "\n".join("  ".join(f"{cell:>{18 if i == 0 else 10}}" for i, cell in enumerate(line)) for line in lines)
