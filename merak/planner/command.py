"""`merak plan`: the plan that trains a model fastest on a cluster, found and explained. Nothing is trained, and no
device of the cluster is needed."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from merak._extras import require
from merak.graph.errors import CaptureError
from merak.planner.cluster import Cluster
from merak.planner.search import find_plan

if TYPE_CHECKING:
    from argparse import ArgumentParser, _SubParsersAction

_ROWS = 4
"""Of the example; the search is told the real number."""


def add_parser(subparsers: _SubParsersAction[ArgumentParser]) -> None:
    """Adds the parser of `merak plan`."""
    parser = subparsers.add_parser(
        "plan",
        allow_abbrev=False,
        help="find the plan that trains a model fastest on a cluster",
        description="Finds the plan by which a model trains fastest on a cluster: replicas, tensor-parallel and "
        "pipeline ranks, stages, schedule, micro-batches, recomputation. Works on any machine: the model has no "
        "values, and the cluster is a file (`merak bench --calibrate` measures one) or a line such as "
        '"8 x 8 A100-40GB, NVLink3, 100Gbit/s".',
    )
    add = parser.add_argument
    add(
        "--model",
        required=True,
        metavar="MODEL",
        help="a folder or file with a Hugging Face configuration, or "
        "package.module:function that gives a model and a batch for it",
    )
    add("--cluster", required=True, metavar="CLUSTER", help="a JSON file, or a line as above")
    add("--rows", type=int, required=True, metavar="N", help="of a step's batch, all replicas together")
    add("--sequence", type=int, default=1024, metavar="N", help="tokens of a row, of models of text (default 1024)")
    add("--precision", default="bf16", choices=("fp32", "bf16", "fp16"), help="(default bf16)")
    add("--memory", type=float, metavar="GB", help="of each device that may be used (default: all of it)")
    for name in ("dp", "tp", "pp", "microbatches"):
        add(f"--{name}", type=int, metavar="N", help="pin it; the rest is searched for")
    add("--schedule", metavar="KIND", help="pin it")
    add("--layouts", action="store_true", help="look for other layouts of shared layers than Megatron's, too")
    add("--others", type=int, default=5, metavar="N", help="how many of the next best plans to show (default 5)")
    add("--what-if", action="store_true", help="search again with more memory, and with faster links")
    add("--picture", type=Path, metavar="FILE", help="draw the plan there: schedule, memory, what a step is spent on")
    add("--output", type=Path, metavar="FILE", help="write the plan there, for merak.Plan.load")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Finds the plan and prints it."""
    try:
        cluster = cluster_of(arguments.cluster)
        model, batch = model_of(arguments.model, arguments.sequence)
        pinned = {name: getattr(arguments, name) for name in ("dp", "tp", "pp", "microbatches", "schedule")}
        found = find_plan(
            model,
            batch,
            cluster,
            rows=arguments.rows,
            memory=None if arguments.memory is None else int(arguments.memory * 1e9),
            precision=arguments.precision,
            layouts=arguments.layouts,
            progress=_tell,
            **{name: value for name, value in pinned.items() if value is not None},
        )
    except (ValueError, CaptureError, OSError) as error:
        print(f"merak plan: {error}", file=sys.stderr)
        return 1
    _tell("")
    print(cluster.explain(), found.explain(arguments.others), sep="\n\n")
    if arguments.what_if:
        print("", found.what_if(cluster), sep="\n")
    if arguments.picture:
        found.picture(arguments.picture, arguments.others)
    if arguments.output:
        found.save(arguments.output)
    return 0


def cluster_of(text: str) -> Cluster:
    """A cluster in a file, or in a line such as "2 x 4 RTX3090, PCIe4, 25Gbit/s".

    Raises:
        ValueError: the text is neither, or the file says what cannot be.
    """
    if Path(text).exists():
        return Cluster.load(text)
    counts, *links = (part.strip() for part in text.split(","))
    words = counts.split(maxsplit=3)
    if len(words) != 4 or words[1] != "x" or not words[0].isdigit() or not words[2].isdigit() or len(links) > 2:
        raise ValueError(
            f"{text!r} is no file, and no cluster in a line, which has hosts, devices of each, and the links inside "
            'and between hosts, as in "8 x 8 A100-40GB, NVLink3, 100Gbit/s"'
        )
    inside = links[0] if links else None
    between = links[1] if len(links) > 1 else None
    return Cluster.uniform(words[3], int(words[0]), int(words[2]), inside=inside, between=between)


def model_of(text: str, sequence: int) -> tuple[nn.Module, dict[str, Any]]:
    """A model without values, and a batch for it.

    Raises:
        ValueError: there is no such configuration or function.
    """
    path = Path(text)
    if path.exists():
        return _of_configuration(path / "config.json" if path.is_dir() else path, sequence)
    module, _, function = text.partition(":")
    if not function:
        raise ValueError(f"{text!r} is neither a file or folder, nor package.module:function")
    try:
        made = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{text}: {error}") from error
    if not isinstance(made, tuple) or len(made) != 2 or not isinstance(made[0], nn.Module):
        raise ValueError(f"{text} gives {type(made).__name__}; it has to give a model and a batch for its forward")
    return made


def _of_configuration(path: Path, sequence: int) -> tuple[nn.Module, dict[str, Any]]:
    transformers: Any = require("transformers", extra="hf")
    facts = json.loads(path.read_text())
    if not isinstance(facts, dict) or "model_type" not in facts:
        raise ValueError(f"{path} is no configuration of Hugging Face's: it has no model_type")
    config = transformers.AutoConfig.for_model(**facts)
    _settle(config)
    names = config.architectures or []
    kind = getattr(transformers, names[0], None) if names else None
    with torch.device("meta"):
        if kind is None:
            kinds = (transformers.AutoModelForSeq2SeqLM, transformers.AutoModelForCausalLM)
            model = kinds[0 if config.is_encoder_decoder else 1].from_config(config)
        else:
            model = kind(config)
    return model, _batch_for(model, config, sequence)


def _settle(config: Any) -> None:
    """What a training script would say, and what models look up, or write down, at their first call."""
    config.use_cache = False
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = config.pad_token_id or 0
    if "Classification" in " ".join(config.architectures or []) and config.problem_type is None:
        config.problem_type = "single_label_classification"


def _batch_for(model: Any, config: Any, sequence: int) -> dict[str, Any]:
    if model.main_input_name == "pixel_values":
        side, channels = config.image_size, getattr(config, "num_channels", 3)
        sides = side if isinstance(side, list | tuple) else (side, side)
        return {"pixel_values": torch.zeros(_ROWS, channels, *sides), "labels": torch.zeros(_ROWS, dtype=torch.long)}
    ids = torch.zeros(_ROWS, sequence, dtype=torch.long)
    return {"input_ids": ids, "labels": ids.clone()}


def _tell(text: str) -> None:
    """The progress, on one line of a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
