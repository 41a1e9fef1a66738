"""Finished runs: a file of JSON lines for each scale, to which a line is added at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.data.experiment.arms import Losses, Run, Scale


class Results:
    """What has been run at a scale, in a folder that may be copied elsewhere."""

    def __init__(self, folder: Path, scale: Scale) -> None:
        self.path = folder / f"{scale.name}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self.lines: list[dict[str, Any]] = []
        if self.path.exists():
            self.lines = [json.loads(line) for line in self.path.read_text().splitlines()]

    def has(self, run: Run) -> bool:
        """Whether the run has finished."""
        return (run.arm.name, run.rate, run.seed) in self.losses

    def add(self, run: Run, result: dict[str, Any]) -> None:
        """A run has finished."""
        line = {"arm": run.arm.name, "rate": run.rate, "seed": run.seed, **_rounded(result)}
        self.lines.append(line)
        # In one go under another name: a line that was half written would be in the way of all that read it.
        unfinished = self.path.with_suffix(".part")
        unfinished.write_text("".join(json.dumps(one) + "\n" for one in self.lines))
        unfinished.replace(self.path)

    @property
    def losses(self) -> Losses:
        """By arm, rate and seed."""
        return {(line["arm"], line["rate"], line["seed"]): line["loss"] for line in self.lines}

    def of(self, arm: str, rate: float | None) -> list[dict[str, Any]]:
        """Of an arm with a rate, by seed."""
        found = [line for line in self.lines if line["arm"] == arm and line["rate"] == rate]
        return sorted(found, key=lambda line: int(line["seed"]))


def _rounded(value: Any) -> Any:
    """Losses to 5 digits behind the point, seconds to 1; whole numbers as such."""
    if isinstance(value, dict):
        digits = {"loss": 5, "cpu_seconds": 1}
        return {
            name: round(inner, digits.get(name, 0)) if isinstance(inner, float) else _rounded(inner)
            for name, inner in value.items()
        }
    return [_rounded(one) for one in value] if isinstance(value, list) else value
