"""The options of the example, declared once: the dataclass below is also the command line.

An option either *defines the run* (change it and the losses change: layers, steps, seed, ...) or only says how the run
is carried out (where it writes, how often it reports). A checkpoint records the first kind, and resuming with another
value of one of them is refused.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any


class UsageError(ValueError):
    """A mistake in how the example was called. Every rank raises it alike, so rank 0 alone prints it."""


def option(default: Any, text: str, *, defines_run: bool = True) -> Any:
    """One field of `Options`, with its help text and whether it defines the run."""
    return field(default=default, metadata={"help": text, "defines_run": defines_run})


def habit(default: Any, text: str) -> Any:
    """A field of `Options` that changes no loss."""
    return option(default, text, defines_run=False)


@dataclass(frozen=True)
class Options:
    """Every option, with its default. Sizes count tokens, sequences or steps, as the help says."""

    vocabulary: int = option(1024, "tokens in the byte-level BPE vocabulary, at least 257")
    layers: int = option(4, "transformer blocks")
    width: int = option(128, "numbers in a hidden state; a multiple of --heads")
    heads: int = option(4, "attention heads")
    dropout: float = option(0.0, "probability with which a number is dropped in training")
    block: int = option(128, "tokens in a sequence")
    holdout: int = option(8, "every how many-th topic is kept for validation")
    global_batch: int = option(32, "sequences in a step over all ranks; a multiple of the number of ranks")
    steps: int = option(300, "optimizer steps")
    learning_rate: float = option(3e-3, "the largest learning rate, reached after the warm-up")
    warmup: int = option(30, "steps in which the learning rate rises; then it falls along a cosine")
    weight_decay: float = option(0.1, "AdamW's weight decay of matrices (vectors have none)")
    clip: float = option(1.0, "largest norm of the gradient")
    seed: int = option(0, "seed of weights, data order and dropout")

    backend: str = habit("merak", "torch.distributed backend: merak, or gloo for comparison")
    timeout: int = habit(300, "seconds after which a collective that is not finished raises an error")
    threads: int = habit(1, "torch threads in a rank")
    output: Path = habit(Path("runs/language_model"), "folder of the checkpoints, losses.json and loss.png")
    evaluate_every: int = habit(50, "steps between validations; there is always one at the start and one at the end")
    checkpoint_every: int = habit(100, "steps between checkpoints; there is always one at the end")
    keep: int = habit(2, "checkpoints kept; older ones are removed")
    log_every: int = habit(10, "steps between lines where the output is not a terminal")
    stop_at: int = habit(0, "leave after this step with a checkpoint, as when a time slice ends; 0 runs to the end")
    resume: bool = habit(False, "go on from the newest checkpoint in the output folder, if there is one")

    def __post_init__(self) -> None:
        for name, least in _SMALLEST.items():
            if getattr(self, name) < least:
                raise UsageError(f"--{_flag(name)} is {getattr(self, name)}; it must be at least {least}.")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"--dropout is {self.dropout}; it must be at least 0 and below 1.")
        if self.learning_rate <= 0 or self.clip <= 0 or self.weight_decay < 0:
            raise UsageError("--learning-rate and --clip must be above 0, and --weight-decay at least 0.")
        if self.width % self.heads:
            raise UsageError(f"--width {self.width} is not a multiple of --heads {self.heads}.")

    def defining(self) -> dict[str, Any]:
        """The options that define the run, by name."""
        values = asdict(self)
        return {f.name: values[f.name] for f in fields(self) if f.metadata["defines_run"]}


_SMALLEST = {
    "vocabulary": 257,  # a token a byte, and the end of a text
    "layers": 1, "width": 1, "heads": 1, "block": 2, "holdout": 2, "global_batch": 1, "steps": 1, "warmup": 0,
    "evaluate_every": 1, "seed": 0, "timeout": 1, "threads": 1, "checkpoint_every": 1, "keep": 1, "log_every": 1,
    "stop_at": 0,
}  # fmt: skip


def _flag(name: str) -> str:
    return name.replace("_", "-")


def command_line(description: str) -> argparse.ArgumentParser:
    """The parser of the command line, one argument a field of `Options`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for f in fields(Options):
        if isinstance(f.default, bool):
            parser.add_argument(f"--{_flag(f.name)}", action="store_true", help=f.metadata["help"])
        else:
            parser.add_argument(
                f"--{_flag(f.name)}", type=type(f.default), default=f.default, help=f.metadata["help"], metavar="X"
            )
    return parser


def parse(description: str, arguments: Sequence[str] | None = None) -> Options:
    """Reads `arguments`, or the process's own when None.

    Raises:
        UsageError: a value is out of range.
    """
    return Options(**vars(command_line(description).parse_args(arguments)))
