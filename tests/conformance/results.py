"""What each test did in each pass, stored as JSON in ``tests/conformance/results/<mode>.json``.

The stored file of Gloo is the oracle of the gate, so that a change of merak is judged without running Gloo again. It
is made anew with ``python -m tests.conformance.run --backend gloo`` when torch changes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.conformance.forkserver import Record
from tests.conformance.suite import Mode

FOLDER = Path(__file__).parent / "results"


@dataclasses.dataclass
class Results:
    """Outcomes of one mode.

    ``outcomes[test][pass name]`` is "passed", "failed" or "skipped"; ``why_skipped[test]`` the reason of a skip, for
    tests that were skipped in some pass.
    """

    torch: str
    outcomes: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    why_skipped: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, pass_name: str, records: Iterable[Record]) -> None:
        """Enters the records of one pass."""
        for record in records:
            self.outcomes.setdefault(record.test, {})[pass_name] = record.outcome
            if record.outcome == "skipped":
                self.why_skipped.setdefault(record.test, record.reason)

    def passed_in(self, pass_name: str) -> list[str]:
        """Names of the tests that passed in a pass."""
        return sorted(test for test, by_pass in self.outcomes.items() if by_pass.get(pass_name) == "passed")

    def save(self, mode: Mode) -> None:
        """Writes the file of ``mode``: one test a line, in alphabetical order, so that changes read well in a diff."""
        FOLDER.mkdir(exist_ok=True)
        parts = [f'"torch": {json.dumps(self.torch)}']
        parts += [_one_test_a_line(name, getattr(self, name)) for name in ("outcomes", "why_skipped")]
        (FOLDER / f"{mode}.json").write_text("{\n" + ",\n".join(parts) + "\n}\n")


def _one_test_a_line(name: str, by_test: Mapping[str, object]) -> str:
    lines = ",\n".join(f"{json.dumps(test)}: {json.dumps(value)}" for test, value in sorted(by_test.items()))
    return f'"{name}": {{\n{lines}\n}}'


def load(mode: Mode) -> Results:
    """The stored results of ``mode``.

    Raises ``FileNotFoundError`` naming the command that makes the file.
    """
    path = FOLDER / f"{mode}.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; make it with: python -m tests.conformance.run --backend {mode}")
    return Results(**json.loads(path.read_text()))
