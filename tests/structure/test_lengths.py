"""House rule 7, as numbers: nine of ten functions have at most 35 lines; files and functions have an upper bound."""

from __future__ import annotations

import lizard
import pytest

from tests.structure.sources import ROOT, files

SUFFIXES = {".h", ".cpp", ".cu", ".py"}
NINE_OF_TEN = 35
LONGEST_FUNCTION = 80
LONGEST_FILE = 450


@pytest.mark.parametrize("folder", ["csrc", "merak", "examples", "benchmarks"])
def test_functions_are_short(folder: str) -> None:
    lengths = sorted(
        (function.end_line - function.start_line + 1, f"{path.relative_to(ROOT)}:{function.start_line} {function.name}")
        for path in files(folder, suffixes=SUFFIXES)
        for function in lizard.analyze_file(str(path)).function_list
    )
    if not lengths:
        pytest.skip(f"no functions in {folder} yet")
    ninth = lengths[(len(lengths) * 9 + 9) // 10 - 1][0]
    assert ninth <= NINE_OF_TEN, f"the longest tenth: {lengths[-max(1, len(lengths) // 10) :]}"
    assert [entry for entry in lengths if entry[0] > LONGEST_FUNCTION] == []


def test_files_are_short() -> None:
    sizes = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in files("csrc", "merak", "examples", "benchmarks", suffixes=SUFFIXES)
    }
    assert {name: lines for name, lines in sizes.items() if lines > LONGEST_FILE} == {}
