"""`merak env`: prints what was built, found and chosen; exits with 1 when a variable cannot be understood."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from merak.backend.environment import Report, report

if TYPE_CHECKING:
    from argparse import ArgumentParser, _SubParsersAction


def add_parser(subparsers: _SubParsersAction[ArgumentParser]) -> None:
    """Adds the parser of `merak env`."""
    parser = subparsers.add_parser("env", help="print what was built, found and chosen")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    facts = report()
    print(json.dumps(facts, indent=2) if arguments.json else "\n".join(_lines(facts)))
    return 1 if list(_problems(facts)) else 0


def _lines(facts: Report) -> Iterator[str]:
    yield f"merak {facts['merak']}"
    for title, section in (("built with", facts["build"]), ("found", facts["found"]), ("chosen", facts["chosen"])):
        yield f"\n{title}"
        yield from _table(section)
    yield "\nenvironment variables (value, or default in brackets)"
    for name, variable in facts["variables"].items():
        value = f"[{variable['default']}]" if variable["value"] is None else variable["value"]
        yield f"  {name:28} {value:14} {variable['doc']}; {variable['type']}"
    for problem in _problems(facts):
        yield f"\nerror: {problem}"


def _problems(facts: Report) -> Iterator[str]:
    for variable in facts["variables"].values():
        if variable["problem"]:
            yield variable["problem"]
    for name in facts["unknown_variables"]:
        yield f"{name} is set, but there is no such variable."


def _table(section: Mapping[str, object]) -> Iterator[str]:
    for name, value in section.items():
        yield f"  {name.replace('_', ' '):20} {_text(value)}"


def _text(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name} {_text(entry)}" for name, entry in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
