"""Writes ``docs/conformance.md`` from the stored results, and JUnit XML for continuous integration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.etree import ElementTree

from tests.conformance.forkserver import Record
from tests.conformance.gate import INHERENT, INHERENT_OF_OWN_NAME, violations
from tests.conformance.passes import ROOT
from tests.conformance.results import Results
from tests.conformance.suite import Mode

PAGE = ROOT / "docs" / "conformance.md"

INTRODUCTION = """# Conformance: PyTorch's own backend tests on merak

PyTorch ships the tests of its distributed backends in its wheel (`DistributedTest._DistTestBase`). `make conformance`
runs them on Gloo, on merak with the name `gloo` re-pointed at it (so that tests written for Gloo run on merak), and on
merak under its own name. This page is generated from the stored results by `python -m tests.conformance.run`.

A test runs in up to five *passes*: with 2, 3 and 4 ranks, and with 3 and 4 ranks while the suite believes the backend
to be MPI (`3-mpi`, `4-mpi`), which is the only way to its CPU tests of all-to-all and of subgroups. A cell says
`passed` when the test passed in every pass where it ran.

The gate: no test that passes on Gloo fails on merak.
"""


def cell(by_pass: Mapping[str, str]) -> str:
    """One cell of the table: what a test did over all passes of a mode, e.g. ``passed`` or ``failed (4-mpi)``."""
    failed = [name for name, outcome in by_pass.items() if outcome == "failed"]
    if failed:
        return f"**failed** ({', '.join(failed)})"
    return "passed" if "passed" in by_pass.values() else "skipped"


def _counts(results: Results) -> str:
    cells = [cell(by_pass) for by_pass in results.outcomes.values()]
    passed, skipped = cells.count("passed"), cells.count("skipped")
    return f"{passed} passed, {len(cells) - passed - skipped} failed, {skipped} skipped in every pass"


def _table(stored: Mapping[Mode, Results]) -> Iterable[str]:
    yield "| test | " + " | ".join(stored) + " |"
    yield "|---|" + "---|" * len(stored)
    for test in sorted({test for results in stored.values() for test in results.outcomes}):
        cells = [cell(results.outcomes.get(test, {})) for results in stored.values()]
        if set(cells) != {"skipped"}:
            yield f"| `{test}` | " + " | ".join(cells) + " |"


def _skipped_everywhere(gloo: Results) -> Iterable[str]:
    by_reason = defaultdict(list)
    for test, by_pass in sorted(gloo.outcomes.items()):
        if cell(by_pass) == "skipped":
            by_reason[gloo.why_skipped[test]].append(test)
    for reason, tests in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        yield f"- {reason} ({len(tests)}): " + ", ".join(f"`{test}`" for test in tests)


def page(stored: Mapping[Mode, Results]) -> str:
    """The whole Markdown page; ``stored`` holds at least the results of Gloo."""
    gloo = stored[Mode.GLOO]
    lines = [INTRODUCTION, f"## Summary (torch {gloo.torch})\n"]
    lines += [f"- {mode}: {_counts(results)}." for mode, results in stored.items()]
    broken = [
        line for mode, results in stored.items() if mode is not Mode.GLOO for line in violations(mode, gloo, results)
    ]
    lines += ["- Violations of the gate: " + ("; ".join(broken) if broken else "none") + "."]
    lines += ["\n## Inherent exceptions\n"]
    lines += [f"- `{test}`: {reason}." for test, reason in INHERENT.items()]
    lines += [f"- under its own name, `{test}`: {reason}." for test, reason in INHERENT_OF_OWN_NAME.items()]
    lines += ["\n## Results\n", *_table(stored)]
    lines += ["\n## Skipped by the suite on Gloo in every pass, with its reason\n", *_skipped_everywhere(gloo)]
    return "\n".join(lines) + "\n"


def write_junit(path: Path, mode: Mode, records: Mapping[str, list[Record]]) -> None:
    """Writes one test case per (pass, test); ``records`` maps a pass's name to its records."""
    root = ElementTree.Element("testsuites")
    for pass_name, of_pass in records.items():
        suite = ElementTree.SubElement(root, "testsuite", name=f"{mode}-{pass_name}", tests=str(len(of_pass)))
        for record in of_pass:
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=f"conformance.{mode}.{pass_name}",
                name=record.test,
                time=str(record.seconds),
            )
            if record.outcome != "passed":
                tag = "failure" if record.outcome == "failed" else "skipped"
                ElementTree.SubElement(case, tag, message=record.reason[-200:]).text = record.reason
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
