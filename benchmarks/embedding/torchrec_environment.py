"""TorchRec beside merak: it does not work with merak's newest torch, and so has a virtual environment of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from itertools import product
from pathlib import Path

from benchmarks.sparse.tables import Table

TORCHREC_WAYS = ("torchrec column-wise", "torchrec row-wise")

REQUIREMENTS = "benchmarks/embedding/requirements-torchrec.txt"
ADVICE = (
    f"Make a virtual environment for it, with `pip install torch==2.14.1` and then `pip install --no-deps -r "
    f"{REQUIREMENTS}`, and name its Python (docs/benchmarks.md)."
)


class UnusableError(RuntimeError):
    """TorchRec cannot be measured; the message says why, and what to do."""


def require_torchrec(python: Path, tables: Iterable[Table], hosts: Iterable[int]) -> None:
    """Find out now, and not after minutes of measuring, whether TorchRec is there and splits these tables.

    Raises:
        UnusableError: no.
    """
    for table, ranks in product(tables, hosts):
        if table.columns % ranks:
            raise UnusableError(f"TorchRec cannot split {table.columns} columns over {ranks} hosts; choose others.")
    try:
        tried = subprocess.run([python, "-c", "import torchrec.distributed"], capture_output=True, text=True)
    except OSError as error:
        raise UnusableError(f"{python} does not run: {error.strerror}. {ADVICE}") from error
    if tried.returncode != 0:
        reason = tried.stderr.strip().rpartition("\n")[2]
        raise UnusableError(f"{python} cannot import TorchRec ({reason}). {ADVICE}")
