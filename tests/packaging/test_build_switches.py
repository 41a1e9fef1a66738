"""MERAK_CUDA, as setup.py decides it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def setup(**environment: str) -> subprocess.CompletedProcess[str]:
    """Runs setup.py as far as its decisions, building nothing."""
    return subprocess.run(
        [sys.executable, "setup.py", "--name"],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_unknown_value_is_refused() -> None:
    done = setup(MERAK_CUDA="yes")
    assert done.returncode != 0
    assert "MERAK_CUDA='yes': expected auto, 0 or 1." in done.stderr


def test_cuda_demanded_without_a_toolkit_says_what_is_missing(tmp_path: Path) -> None:
    done = setup(MERAK_CUDA="1", CUDA_HOME=str(tmp_path))
    assert done.returncode != 0
    assert "Install a matching toolkit and set CUDA_HOME, or build with MERAK_CUDA=0." in done.stderr


@pytest.mark.parametrize("switch", ["auto", "0"])
def test_no_toolkit_is_no_obstacle(switch: str, tmp_path: Path) -> None:
    done = setup(MERAK_CUDA=switch, CUDA_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "torch-merak"
