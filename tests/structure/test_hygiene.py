"""House rule 8 and the rest of what a grep can find: no unpickling, no machine's paths, nothing left open."""

from __future__ import annotations

from tests.structure.sources import files, matches

PYTHON = {".py"}
OURS = ("merak", "examples", "benchmarks")


def test_nothing_is_pickled_or_unpickled() -> None:
    pattern = r"^\s*(import|from)\s+(pickle|cloudpickle|dill|marshal|shelve)\b|\bpickle\.\w|weights_only\s*=\s*False"
    assert matches(pattern, files(*OURS, suffixes=PYTHON)) == []


def test_no_object_collectives_which_pickle() -> None:
    pattern = r"\b((all_)?gather_object|broadcast_object_list|scatter_object_list|(send|recv)_object_list)\b"
    assert matches(pattern, files("merak", suffixes=PYTHON)) == []


def test_no_path_of_one_machine() -> None:
    assert matches(r"(?<![\w.~$)}-])/(work|farm|home|root|mnt|Users)/\w", files()) == []


def test_nothing_is_left_open() -> None:
    assert matches(r"\b(TODO|FIXME|XXX|NotImplementedError)\b", files("csrc", *OURS)) == []
