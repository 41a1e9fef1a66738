"""The rule that decides whether merak conforms: no test that passes on Gloo fails on merak."""

from __future__ import annotations

from tests.conformance.results import Results
from tests.conformance.suite import Mode

INHERENT: dict[str, str] = {
    "test_ddp_logging_data_cpu": (
        "expects DDP's log to hold the backend's name, which is that of the backend's C++ type; a backend that is not "
        'part of torch has the type CUSTOM, so that `ProcessGroup.name()` answers "custom"'
    ),
}
"""Tests that no out-of-tree backend can pass, and why."""

_MODEL_FOR_KNOWN_NAMES = (
    'makes its model only where the suite\'s `BACKEND` is "mpi", "gloo" or "nccl", and then uses it under any name'
)
INHERENT_OF_OWN_NAME: dict[str, str] = {
    "test_accumulate_gradients_no_sync": _MODEL_FOR_KNOWN_NAMES,
    "test_accumulate_gradients_no_sync_grad_is_view": _MODEL_FOR_KNOWN_NAMES,
    "test_accumulate_gradients_no_sync_allreduce_hook": _MODEL_FOR_KNOWN_NAMES,
    "test_accumulate_gradients_no_sync_allreduce_with_then_hook": _MODEL_FOR_KNOWN_NAMES,
}
"""Tests that pass where the name "gloo" stands for merak, but that no backend whose name the suite does not know can
pass, and why."""


def violations(mode: Mode, gloo: Results, merak: Results) -> list[str]:
    """Sentences naming each test and pass where Gloo passed and merak did not; empty when merak conforms.

    Under its own name merak may skip what the suite reserves for names it knows; as "gloo" it may not. Passes that
    merak's results do not hold are not judged.
    """
    judged = {name for by_pass in merak.outcomes.values() for name in by_pass}
    found = []
    for test, by_pass in sorted(gloo.outcomes.items()):
        for pass_name, outcome in by_pass.items():
            if outcome != "passed" or pass_name not in judged:
                continue
            ours = merak.outcomes.get(test, {}).get(pass_name, "never run")
            if not _acceptable(mode, test, ours):
                found.append(f"{test} (pass {pass_name}): passed on gloo, {ours} on {mode}")
    return found


def _acceptable(mode: Mode, test: str, outcome: str) -> bool:
    if outcome == "passed" or test in INHERENT:
        return True
    return mode is Mode.MERAK and (outcome == "skipped" or test in INHERENT_OF_OWN_NAME)
