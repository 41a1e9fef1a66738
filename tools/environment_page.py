"""Writes docs/environment.md from the table of environment variables in csrc/transport/environment.cpp.

`make docs` runs it.
"""

from __future__ import annotations

from pathlib import Path

from merak.backend.environment import report

PAGE = Path(__file__).resolve().parents[1] / "docs" / "environment.md"
HEAD = """\
# Environment variables

A variable that is unset or empty has its default. A value that cannot be understood raises `ValueError`, which names
the variable and what it may be. `merak env` shows the values in force. (`make docs` writes this page from the table in
`csrc/transport/environment.cpp`.)

| variable | meaning | value | default |
| --- | --- | --- | --- |
"""


def text() -> str:
    """The page."""
    rows = [
        f"| `{name}` | {variable['doc']} | {variable['type']} | {code(variable['default'])} |"
        for name, variable in sorted(report()["variables"].items())
    ]
    return HEAD + "\n".join(rows) + "\n"


def code(value: str) -> str:
    return f"`{value}`" if value else "none"


if __name__ == "__main__":
    PAGE.write_text(text())
