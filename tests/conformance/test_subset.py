"""The part of PyTorch's backend suite that runs in ``make test``: all that Gloo passes on CPU, in two passes, of which
that with four ranks is left to ``make test-slow``.

Each test of the suite is one pytest test here, so that a failure is reported by name; the work is done once per pass
by the fixture, in a warm process.
"""

from __future__ import annotations

import dataclasses

import pytest

from tests.conformance import results
from tests.conformance.forkserver import Record
from tests.conformance.gate import INHERENT
from tests.conformance.passes import Pass, run_pass
from tests.conformance.suite import Mode

ORACLE = results.load(Mode.GLOO)


@dataclasses.dataclass(frozen=True)
class Share:
    """Tests of the suite that this file runs in one pass."""

    which: Pass
    tests: tuple[str, ...]

    def records(self) -> dict[str, Record]:
        """Runs the tests and returns a record of each by its name."""
        return {record.test: record for record in run_pass(Mode.MERAK_AS_GLOO, self.which, self.tests)}


FOUR = Share(Pass(4, False), tuple(test for test in ORACLE.passed_in("4") if test not in INHERENT))
THREE = Share(Pass(3, True), tuple(test for test in ORACLE.passed_in("3-mpi") if test not in {*FOUR.tests, *INHERENT}))


@pytest.fixture(scope="module")
def four_ranks() -> dict[str, Record]:
    return FOUR.records()


@pytest.fixture(scope="module")
def three_ranks() -> dict[str, Record]:
    return THREE.records()


@pytest.mark.slow
@pytest.mark.parametrize("test", FOUR.tests)
def test_passes_with_four_ranks(test: str, four_ranks: dict[str, Record]) -> None:
    assert four_ranks[test].outcome == "passed", four_ranks[test].reason


@pytest.mark.parametrize("test", THREE.tests)
def test_passes_with_three_ranks(test: str, three_ranks: dict[str, Record]) -> None:
    assert three_ranks[test].outcome == "passed", three_ranks[test].reason
