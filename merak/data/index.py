"""The index of a data set: for each metric, a number for each sample, as files that any program can read.

A folder: `index.json`, and `<metric>.npy` with one float64 a sample, mapped into memory when it is read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FILE = "index.json"
FORMAT = "merak metric index 1"
PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)


@dataclass(frozen=True)
class MetricIndex:
    """What `merak.data.analyze` has found out.

    Attributes:
        folder: where it is.
        samples: of the data set.
        summaries: by metric, the file, minimum, maximum, mean and percentiles.
    """

    folder: Path
    samples: int
    summaries: dict[str, dict[str, Any]]

    @property
    def names(self) -> list[str]:
        """Of the metrics."""
        return list(self.summaries)

    def values(self, name: str) -> npt.NDArray[np.float64]:
        """A metric's values, one float64 a sample, in the data set's order."""
        if name not in self.summaries:
            raise ValueError(f"the index has no metric {name!r}; it has {', '.join(self.names)}")
        values = np.load(self.folder / self.summaries[name]["file"], mmap_mode="r", allow_pickle=False)
        if values.shape != (self.samples,) or values.dtype != np.float64:
            raise ValueError(f"metric {name!r} should be {self.samples} numbers of float64: the index is damaged")
        return values  # type: ignore[no-any-return]

    @classmethod
    def load(cls, folder: str | Path) -> MetricIndex:
        """Of a folder. Raises ValueError if it has no index that is whole."""
        folder = Path(folder)
        if not (folder / FILE).exists():
            raise ValueError(f"{folder} has no {FILE}: it is no index, or the analysis has not ended")
        content = json.loads((folder / FILE).read_text())
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"{folder / FILE} is not of the format {FORMAT!r}")
        return cls(folder, int(content["samples"]), content["metrics"])

    @classmethod
    def write(cls, folder: Path, values: dict[str, npt.NDArray[np.float64]], about: dict[str, Any]) -> MetricIndex:
        """Of values; index.json comes last, so that a folder that has one is whole."""
        summaries = {}
        for name, numbers in values.items():
            np.save(folder / f"{name}.npy", numbers, allow_pickle=False)
            summaries[name] = {"file": f"{name}.npy", **_summary(numbers)}
        samples = len(next(iter(values.values())))
        content = {"format": FORMAT, "samples": samples, "metrics": summaries, **about}
        temporary = folder / f"{FILE}.part"
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        temporary.replace(folder / FILE)
        return cls(folder, samples, summaries)


def _summary(numbers: npt.NDArray[np.float64]) -> dict[str, Any]:
    percentiles = np.percentile(numbers, PERCENTILES)
    return {
        "minimum": float(numbers.min()),
        "maximum": float(numbers.max()),
        "mean": float(numbers.mean()),
        "percentiles": {str(which): float(value) for which, value in zip(PERCENTILES, percentiles, strict=True)},
    }
