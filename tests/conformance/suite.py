"""Builds the test class that runs PyTorch's shipped backend suite in one of three modes.

Words used here:

* *suite*: the class ``DistributedTest._DistTestBase`` that torch ships in its wheel; 285 tests, most of which run a few
  collectives or a small DDP model on ``WORLD_SIZE`` processes.
* *mode*: which backend the suite sees, see :class:`Mode`.

The suite reads ``BACKEND``, ``WORLD_SIZE`` and ``INIT_METHOD`` from the environment while it is imported (they choose
which tests are skipped), so one process can serve one mode and one world size only. It is the only module here that
imports torch's private test modules.
"""

from __future__ import annotations

import enum
import os
import unittest
from typing import Any


class Mode(enum.StrEnum):
    """What the suite's backend name stands for."""

    GLOO = "gloo"  # the oracle: torch's own Gloo
    MERAK_AS_GLOO = "merak-as-gloo"  # the name "gloo" re-pointed at merak, so that tests written for Gloo run too
    MERAK = "merak"  # merak under its own name


def _point_gloo_at_merak() -> None:
    """Makes ``init_process_group("gloo")`` build a merak backend in this process and its children.

    The backend keeps the type CUSTOM: of a group of type GLOO, DDP's logger reads the options of torch's own class
    without asking whether it has one before it.
    """
    import torch.distributed as dist

    import _merak_autoload

    dist.Backend.register_backend("gloo", _merak_autoload.create, extended_api=True, devices=["cpu", "cuda"])


def _show_merak_as_gloo_in_profiles(distributed_test: Any) -> None:
    """Renames merak's ranges in profiles: the suite looks for "gloo:all_reduce", merak's is "merak:all_reduce"."""
    find = distributed_test.get_profiling_event

    def find_ours(event_name: str, *arguments: Any, **keywords: Any) -> Any:
        for event in find(event_name.replace("gloo:", "merak:"), *arguments, **keywords):
            event.name = event.name.replace("merak:", "gloo:")
        return find(event_name, *arguments, **keywords)

    distributed_test.get_profiling_event = find_ours


def _declare_merak_features() -> None:
    """Tells the suite that tests of DDP and of subgroups apply to the name "merak"."""
    from torch.testing._internal.common_distributed import DistTestCases

    for feature in ("gpu", "cuda", "ddp", "subgroup", "plugin"):
        DistTestCases.backend_feature[feature].add("merak")


def load(mode: Mode, world_size: int, as_mpi: bool = False) -> type[unittest.TestCase]:
    """Imports the suite for ``mode`` and ``world_size`` and returns a test class whose ranks are forked, not spawned.

    With ``as_mpi`` the suite decides its skips as it would for MPI and then runs on the mode's backend all the same.
    That is the only way to reach its CPU tests of all-to-all, which it believes no other backend can do, and its tests
    of subgroups, which it otherwise reserves for eight ranks.

    Forking is sound because importing the suite starts no thread (checked by ``forkserver``), and saves each rank the
    six seconds that the import takes.
    """
    backend = "merak" if mode is Mode.MERAK else "gloo"
    os.environ["BACKEND"] = "mpi" if as_mpi else backend
    os.environ["WORLD_SIZE"] = str(world_size)
    # Decides, at import, that tests which need a file rendezvous apply; each test gets a file of its own in setUp.
    os.environ["INIT_METHOD"] = "file:///nowhere"
    if mode is Mode.MERAK:
        _declare_merak_features()
    from torch.testing._internal.distributed import distributed_test

    distributed_test.BACKEND = backend
    if mode is Mode.MERAK_AS_GLOO:
        _point_gloo_at_merak()
        _show_merak_as_gloo_in_profiles(distributed_test)
    return _test_class(distributed_test)


def _test_class(distributed_test: Any) -> type[unittest.TestCase]:
    import torch.multiprocessing

    class Conformance(distributed_test.TestDistBackend, distributed_test.DistributedTest._DistTestBase):  # type: ignore[misc]
        def setUp(self) -> None:
            super().setUp()
            distributed_test.INIT_METHOD = os.environ["INIT_METHOD"]
            self._start_processes(torch.multiprocessing.get_context("fork").Process)

    return Conformance


def test_names(case: type[unittest.TestCase]) -> list[str]:
    """All tests of the suite, in alphabetical order."""
    return sorted(unittest.TestLoader().getTestCaseNames(case))


def limit_test_time(seconds: float) -> None:
    """Lets the suite itself give up after ``seconds``, since it then prints the stack of every rank."""
    from torch.testing._internal import common_distributed

    common_distributed.TIMEOUT_DEFAULT = int(seconds)
    common_distributed.TIMEOUT_OVERRIDE.clear()
