"""The sdist installs in a clean environment, and two ranks run over what was installed."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from tests.packaging import clean_install


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names in the sdist, without its top folder."""
    with tarfile.open(clean_install.build_sdist(tmp_path_factory.mktemp("sdist"))) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def test_the_sdist_has_every_source_and_header(members: set[str]) -> None:
    folder = clean_install.ROOT / "csrc"
    sources = {str(path.relative_to(clean_install.ROOT)) for path in folder.rglob("*") if path.is_file()}
    assert sources - members == set()


def test_the_sdist_has_what_the_build_and_its_users_need(members: set[str]) -> None:
    needed = {"setup.py", "pyproject.toml", "LICENSE", "README.md", "_merak_autoload.py", "merak/py.typed"}
    assert needed - members == set()


def test_the_sdist_has_nothing_that_was_built(members: set[str]) -> None:
    assert [name for name in members if name.endswith((".so", ".o", ".pyc", "_build_info.py"))] == []
    assert [name for name in members if "cache" in name] == []


@pytest.mark.slow
def test_the_sdist_builds_and_runs_in_a_clean_environment(tmp_path: Path) -> None:
    version = torch.__version__.partition("+")[0]
    command = [sys.executable, clean_install.__file__, "--torch", version, "--environment", tmp_path / "environment"]
    subprocess.run([str(part) for part in command], check=True)
