"""How hard a sample is, as a number: the larger, the harder.

| metric | of a sample |
|---|---|
| `sequence_length` | its tokens |
| `vocabulary_rarity` | minus the sum of log p(token), p from a first pass over the data set |
| `compression_ratio` | bytes after zlib by bytes before: what repeats itself is easy |

The first two are those of C. Li et al., "DeepSpeed Data Efficiency", 2022; the third did best in Y. Zhang et al.,
"Beyond random sampling: efficient language model pretraining via curriculum learning", 2025. A function of the user's
takes a sample, as the data set gives it, and returns a number.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from merak import _C
from merak.data.samples import Part

Numbers = npt.NDArray[np.float64]
OfSample = Callable[[Any], float]
OfPart = Callable[[Part, Numbers], Numbers]


def sequence_length(part: Part, costs: Numbers) -> Numbers:
    """Tokens."""
    return np.diff(part.flat[1]).astype(np.float64)


def vocabulary_rarity(part: Part, costs: Numbers) -> Numbers:
    """The sum of the costs, -log p, of the tokens."""
    tokens, offsets = part.flat
    return _C.rarities(np.ascontiguousarray(tokens), offsets, costs)


def compression_ratio(part: Part, costs: Numbers) -> Numbers:
    """Bytes after by bytes before; 1 for an empty sample."""
    texts = part.texts()
    return np.array([len(zlib.compress(text)) / len(text) if text else 1.0 for text in texts], np.float64)


BUILT_IN: dict[str, OfPart] = {
    "sequence_length": sequence_length,
    "vocabulary_rarity": vocabulary_rarity,
    "compression_ratio": compression_ratio,
}
NEED_COUNTS = frozenset({"vocabulary_rarity"})

Metrics = Sequence[str] | Mapping[str, str | OfSample]


def chosen(metrics: Metrics) -> dict[str, OfPart]:
    """By name what computes it: names of built-in metrics, or a mapping from names to those or functions of a sample.

    Raises:
        ValueError: a metric is not known, or none is given.
    """
    named = metrics if isinstance(metrics, Mapping) else {name: name for name in metrics}
    if isinstance(metrics, str) or not named:
        raise ValueError(f"metrics are {metrics!r}: give a list of some of {', '.join(BUILT_IN)}, or functions by name")
    functions: dict[str, OfPart] = {}
    for name, metric in named.items():
        if not name.isidentifier():
            raise ValueError(f"a metric's name, {name!r}, names a file: use letters, digits and underscores")
        if isinstance(metric, str) and metric not in BUILT_IN:
            raise ValueError(f"metric {metric!r} is not known: use {', '.join(BUILT_IN)}, or a function of a sample")
        functions[name] = BUILT_IN[metric] if isinstance(metric, str) else _of_samples(metric)
    return functions


def need_counts(functions: Mapping[str, OfPart]) -> bool:
    """Whether tokens have to be counted in a pass before."""
    return any(function is BUILT_IN[name] for name in NEED_COUNTS for function in functions.values())


def _of_samples(function: OfSample) -> OfPart:
    def of_part(part: Part, costs: Numbers) -> Numbers:
        return np.array([float(function(sample)) for sample in part.samples], np.float64)

    return of_part
