"""A build with CUDA: which libraries it names and brings into the process, and that the GPU's tests compile."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import merak._C
from merak import _build_info
from tests import cuda_program
from tests.packaging import python

built_with_cuda = pytest.mark.skipif(_build_info.cuda is None, reason="built without CUDA")

LIBRARIES = """
    {imports}
    lines = open("/proc/self/maps").read().splitlines()
    print("\\n".join(sorted({{line.split()[-1] for line in lines if ".so" in line}})))
"""


def mapped(imports: str) -> set[str]:
    """The shared libraries of a process that has done these imports."""
    return set(python.output(LIBRARIES.format(imports=imports)).splitlines())


@built_with_cuda
def test_the_module_brings_no_cuda_library_that_torch_has_not_loaded() -> None:
    with_torch, with_merak = mapped("import torch"), mapped("import torch, merak._C")
    extra = {Path(name).name for name in with_merak - with_torch}
    assert {name for name in extra if "cuda" in name or "nccl" in name} == set()
    for library in ("libcudart.so", "libnccl.so"):
        assert len([name for name in with_merak if Path(name).name.startswith(library)]) == 1, library


@built_with_cuda
def test_the_module_holds_code_for_every_architecture_asked_for() -> None:
    tool = cuda_program.nvcc().with_name("cuobjdump")
    if not tool.exists():
        pytest.skip("needs cuobjdump, of the CUDA toolkit")
    done = subprocess.run([tool, "--list-elf", merak._C.__file__], capture_output=True, text=True, check=True)
    for architecture in (_build_info.cuda_arch_list or "").replace(";", " ").split():
        assert f"sm_{architecture.removesuffix('+PTX').replace('.', '')}." in done.stdout


@pytest.mark.slow
def test_the_tests_for_gpus_compile_and_link(tmp_path: Path) -> None:
    program = tmp_path / "cuda_test"
    cuda_program.build(program, "80")
    assert program.exists()
