"""House rule 1: the C++ core is plain. Only csrc/backend and csrc/bindings may include torch's headers."""

from __future__ import annotations

from tests.structure.sources import ROOT, files, matches

CXX = {".h", ".cpp", ".cu", ".cuh"}
TORCH_ROOMS = ("backend", "bindings")


def test_plain_rooms_include_no_torch_headers() -> None:
    plain = (path for path in files("csrc", suffixes=CXX) if path.relative_to(ROOT).parts[1] not in TORCH_ROOMS)
    assert matches(r'#\s*include\s*[<"](torch|ATen|c10|caffe2|pybind11)', plain) == []


def test_core_tests_and_fuzz_targets_include_no_torch_headers() -> None:
    assert matches(r'#\s*include\s*[<"](torch|ATen|c10|caffe2|pybind11)', files("tests", "fuzz", suffixes=CXX)) == []


def test_every_header_guards_itself() -> None:
    headers = files("csrc", suffixes={".h", ".cuh"})
    assert [str(path.relative_to(ROOT)) for path in headers if "#pragma once" not in path.read_text()] == []
