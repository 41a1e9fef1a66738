"""Benchmarks of tables as tests run them: their command lines, on emulated hosts."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import ModuleType
from typing import Any


def lines_by_way(command: ModuleType, folder: Path, *options: str) -> dict[str, dict[str, Any]]:
    """What a benchmark with one table has measured on two hosts, once a way. `command`: its module."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    output = folder / "lines.jsonl"
    own = ["--hosts", "2", "--repeats", "1", "--timeout", "120", "--output", str(output)]
    assert command.run(parser.parse_args([*own, *options])) == 0
    return {line["way"]: line for line in map(json.loads, output.read_text().splitlines())}
