"""The built module: what it links, and that its stubs say what it holds."""

from __future__ import annotations

import ast
import operator
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import merak._C
from merak import _build_info


@pytest.fixture(scope="module")
def libraries() -> str:
    """The shared libraries that the module names, as readelf prints them."""
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("readelf (binutils) is not installed")
    command = [readelf, "--dynamic", "--wide", merak._C.__file__]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return "\n".join(line for line in done.stdout.splitlines() if "(NEEDED)" in line or "PATH" in line)


def test_nccl_is_not_linked_since_torch_brings_its_own(libraries: str) -> None:
    assert "libnccl" not in libraries


def test_no_search_path_of_the_building_machine_is_kept(libraries: str) -> None:
    assert "PATH" not in libraries


def test_the_build_without_cuda_links_no_cuda(libraries: str) -> None:
    if _build_info.cuda is None:
        assert "cuda" not in libraries
    else:
        assert torch.version.cuda is not None
        assert _build_info.cuda.split(".")[0] == torch.version.cuda.split(".")[0]


def names_in_stubs(body: list[ast.stmt], prefix: str = "") -> set[str]:
    """Functions, classes, methods and values that the stubs declare, as dotted names."""
    names = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(prefix + node.name)
        is_value = isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        if is_value and not node.target.id.startswith("_"):  # else it is an alias of a type
            names.add(prefix + node.target.id)
        if isinstance(node, ast.ClassDef):
            names |= names_in_stubs(node.body, f"{prefix}{node.name}.")
    return names


def test_the_stubs_name_what_the_module_holds() -> None:
    stubs = names_in_stubs(ast.parse(Path(merak.__file__).with_name("_C.pyi").read_text()).body)
    public = {name for name in vars(merak._C) if not name.startswith("__")}
    assert {name for name in stubs if "." not in name} == public
    for name in stubs:
        operator.attrgetter(name)(merak._C)
