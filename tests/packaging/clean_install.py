"""Builds the sdist, installs it in an environment of its own with a given torch, and runs the smoke test there.

    make smoke TORCH=2.11.0

The environment is kept, so that a second run only builds merak again; delete its folder (some 6 GB) to start afresh.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SMOKE_TEST = Path(__file__).resolve().parent / "smoke.py"


def run(*command: str | Path, folder: Path = ROOT) -> None:
    """Runs a command where nothing of the checkout can be imported by accident."""
    print("+", *command, flush=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MERAK_"))}
    cuda = os.environ.get("MERAK_CUDA")
    subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        check=True,
        env=environment | ({"MERAK_CUDA": cuda} if cuda else {}) | {"OMP_NUM_THREADS": "1"},
    )


def build_sdist(folder: Path) -> Path:
    """Builds the sdist into an empty folder; returns its path."""
    # An egg-info of its own: the list of files in the checkout's would bring back what has left the project.
    metadata = folder / "metadata"
    metadata.mkdir()
    run(sys.executable, "setup.py", "-q", "egg_info", "--egg-base", metadata, "sdist", "--dist-dir", folder)
    (archive,) = folder.glob("*.tar.gz")
    return archive


def install(archive: Path, python: Path, torch_version: str) -> None:
    pip = (python, "-m", "pip", "install", "-q")
    run(*pip, "setuptools>=77", "wheel", "ninja", "numpy", f"torch=={torch_version}")
    run(*pip, "--no-build-isolation", "--force-reinstall", "--no-deps", archive)
    run(python, "-m", "pip", "check")


def smoke_test(python: Path, folder: Path) -> None:
    run(python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", SMOKE_TEST, folder=folder)
    run(python.parent / "merak", "env", folder=folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", required=True, metavar="VERSION", help="for example 2.11.0 or 2.15.*")
    parser.add_argument("--environment", required=True, type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    version = arguments.torch if arguments.torch.count(".") > 1 else f"{arguments.torch}.*"
    environment: Path = arguments.environment.absolute()
    python = environment / "bin" / "python"
    if not python.exists():
        venv.create(environment, with_pip=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        install(build_sdist(folder), python, version)
        smoke_test(python, folder)


if __name__ == "__main__":
    main()
