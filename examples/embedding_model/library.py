"""More text: the sources of Python's standard library, docstrings, comments and code, beside the language reference.

What differs from machine to machine without being text is left out: tests, installed packages, tables of character
encodings, and what was generated when this Python was built.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Mapping
from pathlib import Path

from common.corpus import python_reference

_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "encodings", "pydoc_data"}


def python_texts() -> Mapping[str, str]:
    """The topics of the language reference and the modules of the standard library: texts by name."""
    folder = Path(sysconfig.get_path("stdlib"))
    return dict(python_reference()) | {f"{name}.py": text for name, text in modules(folder).items()}


def modules(folder: Path) -> dict[str, str]:
    """The sources below `folder`, by path without suffix; files that are not UTF-8 are left out."""
    texts = {}
    for path in folder.rglob("*.py"):
        place = path.relative_to(folder)
        if _SKIPPED_FOLDERS.isdisjoint(place.parts) and not place.name.startswith("_sysconfigdata"):
            try:
                texts[place.with_suffix("").as_posix()] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
    return texts
