"""Command lines declared once: a frozen dataclass of options is also the parser.

An option either *defines the run* (change it and the losses change: steps, seed, ...) or only says how the run is
carried out (where it writes, how often it reports).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import Field, asdict, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    AnyOptions = TypeVar("AnyOptions", bound=DataclassInstance)


class UsageError(ValueError):
    """A mistake in how the example was called. Every rank raises it alike, so rank 0 alone prints it."""


def option(default: Any, text: str, *, defines_run: bool = True, choices: Sequence[str] | None = None) -> Any:
    """One field of a dataclass of options, with its help text and whether it defines the run."""
    return field(default=default, metadata={"help": text, "defines_run": defines_run, "choices": choices})


def habit(default: Any, text: str) -> Any:
    """A field that changes no loss."""
    return option(default, text, defines_run=False)


def choice(default: str, text: str, choices: Sequence[str]) -> Any:
    """A field that changes no loss and has few values."""
    return option(default, text, defines_run=False, choices=choices)


def defining(options: DataclassInstance) -> dict[str, Any]:
    """The options that define the run, by name."""
    values = asdict(options)
    return {f.name: values[f.name] for f in fields(options) if f.metadata["defines_run"]}


def check_least(options: DataclassInstance, least: Mapping[str, int]) -> None:
    """Raises UsageError where an option is below its least value."""
    for name, value in least.items():
        if getattr(options, name) < value:
            raise UsageError(f"--{_flag(name)} is {getattr(options, name)}; it must be at least {value}.")


def command_line(description: str, options: type[DataclassInstance]) -> argparse.ArgumentParser:
    """The parser of the command line, one argument a field of `options`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for f in fields(options):
        parser.add_argument(f"--{_flag(f.name)}", **_argument(f))
    return parser


def parse(description: str, options: type[AnyOptions], arguments: Sequence[str] | None = None) -> AnyOptions:
    """Reads `arguments`, or the process's own when None.

    Raises:
        UsageError: a value is out of range.
    """
    return options(**vars(command_line(description, options).parse_args(arguments)))


def _argument(f: Field[Any]) -> dict[str, Any]:
    text, choices = f.metadata["help"], f.metadata["choices"]
    if isinstance(f.default, bool):
        return {"action": "store_true", "help": text}
    shown = {"choices": choices} if choices else {"metavar": "X"}
    return {"type": type(f.default), "default": f.default, "help": text, **shown}


def _flag(name: str) -> str:
    return name.replace("_", "-")
