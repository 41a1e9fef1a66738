"""Builds the GPU's part of the unit tests, tests/*/cuda_test.cu, with nvcc and GoogleTest."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TRANSPORT = (
    "compact_program",
    "event_graph",
    "prepared_program",
    "program",
    "signature",
    "simulate",
    "thread",
    "validate",
)


def nvcc() -> Path:
    """The compiler that torch would call; skips the test where there is none."""
    from torch.utils.cpp_extension import CUDA_HOME  # late: the import warns that there is no GPU

    compiler = Path(CUDA_HOME, "bin", "nvcc") if CUDA_HOME else None
    if compiler is None or not compiler.exists():
        pytest.skip("needs nvcc: install a CUDA toolkit and set CUDA_HOME")
    return compiler


def sources() -> list[Path]:
    """What the program consists of: the tests, their rooms, and of the transport what runs programs on devices."""
    transport = ROOT / "csrc" / "transport"
    found = sorted((ROOT / "tests").glob("*/cuda_test.cu"))
    found += [transport / f"{name}.cpp" for name in TRANSPORT]
    found += [path for suffix in ("cpp", "cu") for path in sorted(transport.glob(f"nccl_*.{suffix}"))]
    for room in ("collectives", "sparse"):
        found += [path for suffix in ("cpp", "cu") for path in sorted((ROOT / "csrc" / room).glob(f"*.{suffix}"))]
    return found


def build(program: Path, architecture: str) -> None:
    """Compiles and links `program` for GPUs of one architecture, as "80"."""
    flags = ["-std=c++20", "-O1", "--expt-relaxed-constexpr", f"-arch=sm_{architecture}", "--threads=0"]
    folders = [f"-I{ROOT / name}" for name in ("csrc", "tests")]
    libraries = ["-lgtest", "-lgtest_main", "-lpthread", "-ldl"]
    command = [str(nvcc()), *flags, *folders, *map(str, sources()), "-o", str(program), *libraries]
    subprocess.run(command, check=True)
