"""House rule 5: a room knows only the rooms below it, in C++ includes and in Python imports."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.structure.sources import ROOT, files

PLAIN_ROOMS = (
    "transport",
    "collectives",
    "sparse",
    "embedding",
    "resharding",
    "graph",
    "sharding",
    "pipeline",
    "planner",
    "data",
)

CXX_MAY_INCLUDE: dict[str, set[str]] = {
    "transport": set(),
    "collectives": {"transport"},
    "sparse": {"collectives", "transport"},
    "embedding": {"sparse", "collectives", "transport"},
    "resharding": {"transport"},
    "graph": set(),
    "sharding": set(),
    "pipeline": set(),
    "planner": {"pipeline", "graph"},
    "data": {"transport"},
    "backend": set(PLAIN_ROOMS),
    "bindings": {*PLAIN_ROOMS, "backend"},
}

# From the top down; rooms of one line do not know each other.
PYTHON_LAYERS = (
    ("engine", "hf"),
    ("planner",),
    ("pipeline",),
    ("sharding",),
    ("graph",),
    ("resharding", "embedding", "sparse"),
    ("backend",),
)


def python_may_import(room: str) -> set[str]:
    if room == "data":
        return set()
    depth = next(i for i, layer in enumerate(PYTHON_LAYERS) if room in layer)
    below = {name for layer in PYTHON_LAYERS[depth + 1 :] for name in layer}
    return below | ({"engine", "data"} if room == "hf" else set())


def included_rooms(path: Path) -> set[str]:
    return set(re.findall(r'#\s*include\s*"([a-z_]+)/', path.read_text()))


def imported_modules(path: Path) -> Iterator[str]:
    """Absolute names of what a file imports, within functions too."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            yield from (f"{module}.{alias.name}" for alias in node.names)


CXX_FILES = [str(path.relative_to(ROOT)) for path in files("csrc", suffixes={".h", ".cpp", ".cu", ".cuh"})]
ROOM_FILES = [
    str(path.relative_to(ROOT)) for path in files("merak", suffixes={".py", ".pyi"}) if path.parent != ROOT / "merak"
]


@pytest.mark.parametrize("name", CXX_FILES)
def test_cxx_includes_point_down(name: str) -> None:
    room = Path(name).parts[1]
    assert included_rooms(ROOT / name) - {room} <= CXX_MAY_INCLUDE[room]


@pytest.mark.parametrize("name", ROOM_FILES)
def test_python_imports_point_down(name: str) -> None:
    room = Path(name).parts[1]
    rooms = {name for layer in PYTHON_LAYERS for name in layer} | {"data"}
    modules = [module.split(".") for module in imported_modules(ROOT / name)]
    imported = {parts[1] for parts in modules if parts[0] == "merak" and len(parts) > 1} & rooms
    assert imported - {room} <= python_may_import(room)


def test_torch_internals_are_wrapped() -> None:
    private = [
        f"{path.relative_to(ROOT)}: {module}"
        for path in files("merak", suffixes={".py"})
        if path.name not in ("_torch_compat.py", "_torch_graphs.py")
        for module in imported_modules(path)
        if module.startswith("torch.") and re.search(r"\._(?!_)", module)
    ]
    assert private == []
