"""The project's own files, as the structure tests read them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (".ci", "benchmarks", "csrc", "docs", "examples", "fuzz", "merak", "tests", "tools")
TEXT_SUFFIXES = {"", ".cpp", ".cu", ".h", ".in", ".json", ".md", ".py", ".pyi", ".sh", ".toml", ".txt", ".yaml", ".yml"}


def files(*folders: str, suffixes: set[str] = TEXT_SUFFIXES) -> Iterator[Path]:
    """Text files below the given folders; without any, all of the project's and those at its top."""
    paths = [path for folder in folders or FOLDERS for path in sorted((ROOT / folder).rglob("*"))]
    if not folders:
        paths += sorted(ROOT.iterdir())
    return (p for p in paths if p.suffix in suffixes and p.is_file() and "__pycache__" not in p.parts)


def matches(pattern: str, paths: Iterator[Path]) -> list[str]:
    """Where `pattern` occurs, as "file:line: text"; this folder's own tests, which name what they forbid, left out."""
    expression = re.compile(pattern)
    found = []
    for path in paths:
        if path.parent == Path(__file__).parent:
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
            if expression.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    return found
