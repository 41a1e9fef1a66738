"""Builds the extension module `merak._C`; everything static is in pyproject.toml.

Switches, read from the environment:

MERAK_CUDA            auto (default), 0 or 1. `auto` builds the CUDA parts when torch was built with CUDA and an nvcc of
                      the same major version is found. Whether a GPU is present does not matter.
TORCH_CUDA_ARCH_LIST  GPU architectures, "8.0;9.0" by default.
MAX_JOBS              compilers at once; ninja's own default is the number of cores plus two.

`python setup.py build_ext --inplace` is the quick incremental build behind `make build`. Builds with and without CUDA
differ in their sources: *.cu are for one, *without_cuda.cpp for the other. All else is compiled once for both; objects
lie in `build/torch<version>`.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

# torch warns that there is no GPU, which is no matter here, and of another CUDA minor version, which is allowed.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
try:
    import torch
    from torch.utils import cpp_extension
except ImportError as error:
    raise SystemExit(
        "Building merak needs torch: `pip install torch` first, or leave out --no-build-isolation."
    ) from error

ROOT = Path(__file__).resolve().parent
BUILD_INFO = ROOT / "merak" / "_build_info.py"
ROOMS = (
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
    "backend",
    "bindings",
)
CXX_STANDARD = "c++20"
CXX_FLAGS = [f"-std={CXX_STANDARD}", "-O2", "-g0", "-fvisibility=hidden", "-Wall", "-Wextra"]
NVCC_FLAGS = [f"-std={CXX_STANDARD}", "-O2", "--expt-relaxed-constexpr", "-Xcompiler=-fvisibility=hidden,-Wall"]
TORCH_MINOR = ".".join(torch.__version__.split(".")[:2])


def nvcc_major() -> int | None:
    """Major version of the nvcc that torch would call, or None."""
    home = cpp_extension.CUDA_HOME
    nvcc = Path(home, "bin", "nvcc") if home else None
    if nvcc is None or not nvcc.exists():
        return None
    release = re.search(r"release (\d+)\.", subprocess.check_output([nvcc, "--version"], text=True))
    return int(release.group(1)) if release else None


def cuda_wanted() -> bool:
    """Decides MERAK_CUDA; stops the build when CUDA is demanded but cannot be had."""
    switch = os.environ.get("MERAK_CUDA", "auto")
    if switch not in ("auto", "0", "1"):
        raise SystemExit(f"MERAK_CUDA={switch!r}: expected auto, 0 or 1.")
    if switch == "0":
        return False
    torch_major = int(torch.version.cuda.split(".")[0]) if torch.version.cuda else None
    found = nvcc_major()
    if torch_major is not None and torch_major == found:
        return True
    if switch == "1":
        raise SystemExit(
            f"MERAK_CUDA=1, but torch {torch.__version__} was built for CUDA {torch.version.cuda} and nvcc has major "
            f"version {found}. Install a matching toolkit and set CUDA_HOME, or build with MERAK_CUDA=0."
        )
    return False


def make_extension(cuda: bool) -> Extension:
    files = sorted(path for room in ROOMS for path in (ROOT / "csrc" / room).iterdir())
    sources = [path for path in files if path.suffix == ".cpp" and not (cuda and path.stem.endswith("without_cuda"))]
    sources += [path for path in files if cuda and path.suffix == ".cu"]
    headers = [path for path in files if path.suffix == ".h"]
    make = cpp_extension.CUDAExtension if cuda else cpp_extension.CppExtension
    extension: Extension = make(
        "merak._C",
        [str(path.relative_to(ROOT)) for path in sources],
        depends=[str(path.relative_to(ROOT)) for path in headers],
    )
    # As system headers, torch's do not drown our own warnings in theirs.
    torchs = cpp_extension.include_paths("cpu")
    of_cuda = [folder for folder in extension.include_dirs if folder not in torchs] + nccl_headers(cuda)
    extension.include_dirs = [str(ROOT / "csrc")]
    extension.extra_compile_args = {
        "cxx": CXX_FLAGS + as_system(torchs),
        "nvcc": NVCC_FLAGS + as_system([*torchs, *of_cuda]),
    }
    extension.extra_link_args = ["-Wl,--as-needed", "-ldl", "-pthread"]
    return extension


def as_system(folders: list[str]) -> list[str]:
    return [flag for folder in folders for flag in ("-isystem", folder)]


def nccl_headers(cuda: bool) -> list[str]:
    """nccl.h as shipped beside torch. Only the header: the library is the one torch has loaded, found with dlsym."""
    folder = Path(torch.__file__).resolve().parent.parent / "nvidia" / "nccl" / "include"
    return [str(folder)] if cuda and folder.is_dir() else []


def compiler_name() -> str:
    command = os.environ.get("CXX", "c++").split()
    return subprocess.check_output([*command, "--version"], text=True).splitlines()[0]


def build_info(cuda: bool) -> str:
    """The text of merak/_build_info.py."""
    facts = {
        "torch_version": torch.__version__,
        "torch_minor": TORCH_MINOR,
        "cuda": torch.version.cuda if cuda else None,
        "cuda_arch_list": os.environ.get("TORCH_CUDA_ARCH_LIST") if cuda else None,
        "compiler": compiler_name(),
        "cxx_standard": CXX_STANDARD,
    }
    kinds = {"cuda": "str | None", "cuda_arch_list": "str | None"}
    lines = [f"{name}: {kinds.get(name, 'str')} = {value!r}" for name, value in facts.items()]
    return "\n".join(['"""How merak._C was built. Written by setup.py."""', "", *lines, ""])


class BuildExtension(cpp_extension.BuildExtension):
    """torch's build with ninja, its objects kept between builds, editable installs by pip included."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.build_temp = str(ROOT / "build" / f"torch{torch.__version__}")
        # A module linked with other switches or another torch is stale, however young it is.
        same = BUILD_INFO.exists() and BUILD_INFO.read_text() == build_info(CUDA)
        self.force = self.force or not (self.inplace and same)

    def run(self) -> None:
        # Two builds of one checkout would write the same objects: the second waits, and finds them made.
        folder = Path(self.build_temp)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            super().run()
        BUILD_INFO.write_text(build_info(CUDA))


class BuildPy(build_py):
    """Puts _build_info.py among the modules that a wheel takes, which are copied before the extension is built."""

    def run(self) -> None:
        if not self.editable_mode:
            BUILD_INFO.write_text(build_info(CUDA))
        super().run()


CUDA = cuda_wanted()
if CUDA:
    # Without it torch asks the GPUs present, and fails where there is none.
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "8.0;9.0")

if sys.version_info < (3, 11):  # noqa: UP036 - run by hand, nothing else checks it
    raise SystemExit("merak needs Python 3.11 or newer.")

setup(
    ext_modules=[make_extension(CUDA)],
    cmdclass={"build_ext": BuildExtension.with_options(use_ninja=True), "build_py": BuildPy},
    install_requires=[f"torch=={TORCH_MINOR}.*", "numpy"],
)
