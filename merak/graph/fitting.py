"""Whether a batch fits the example that a model was captured with, and what the symbols of its sizes stand for.

A graph was recorded along the way that the model's code took with the example. Sizes that the code asked nothing of may
change; one that became a number, or that an `if` was about, is held against what was recorded: the graph would compute
something else without a word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from merak._torch_graphs import bind_symbols, evaluate_size, holds
from merak.graph.capture import Captured
from merak.graph.trees import flatten


class Fitted(NamedTuple):
    """A batch as a graph takes it.

    Attributes:
        inputs: tensors of the batch by path.
        sizes: what the symbols in the graph's shapes stand for.
    """

    inputs: dict[str, torch.Tensor]
    sizes: dict[str, int]


def fit(captured: Captured, batch: Mapping[str, Any]) -> Fitted:
    """Checks a batch against what was captured.

    Raises:
        ValueError: names every leaf that does not fit, and how.
    """
    flat = flatten(dict(batch))
    leaves = dict(zip(flat.paths, flat.leaves, strict=True))
    misfits = [f"{path}: is missing" for path in [*captured.inputs, *captured.fixed] if path not in leaves]
    misfits += [f"{path}: was not in the example" for path in leaves if path not in captured.inputs | captured.fixed]
    sizes: dict[str, int] = {}
    for path, fake in captured.inputs.items():
        if path in leaves:
            misfits += [f"{path}: {misfit}" for misfit in _misfits(fake, leaves[path], sizes)]
    for path, value in captured.fixed.items():
        if path in leaves and leaves[path] != value:
            misfits.append(f"{path}: is {leaves[path]!r} and was {value!r} in the example, for good")
    misfits = misfits or _broken_conditions(captured, leaves, sizes)
    if misfits:
        raise ValueError(
            "the batch does not fit the example that the model was captured with:\n  " + "\n  ".join(misfits)
        )
    for name, size_of in captured.more_sizes.items():
        sizes[name] = size_of(sizes)
    return Fitted({path: leaves[path] for path in captured.inputs}, sizes)


def _broken_conditions(captured: Captured, leaves: Mapping[str, Any], sizes: dict[str, int]) -> list[str]:
    """What the model, or its inputs, were in the example and are not now, in terms of sizes."""
    names: dict[str, str] = {}
    broken = []
    for path, fake in captured.inputs.items():
        for dim, size in enumerate(fake.shape):
            names.setdefault(str(size), f"{path}.shape[{dim}]")
            if (wanted := evaluate_size(size, sizes)) != (found := leaves[path].shape[dim]):
                same_as = "" if str(size) == str(wanted) else f", {_named(size, names)}"
                broken.append(f"{path}: dimension {dim} is {found} and must be {wanted}{same_as}")
    broken += [
        f"the model took its way where {_named(condition, names)}, and would go another now"
        for condition in captured.conditions
        if not holds(condition, sizes)
    ]
    return broken


def _named(expression: Any, names: Mapping[str, str]) -> str:
    """An expression in symbols, with what the user calls them."""
    return re.sub(r"\bs\d+\b", lambda symbol: names.get(symbol[0], symbol[0]), str(expression))


def _misfits(fake: torch.Tensor, real: Any, sizes: dict[str, int]) -> list[str]:
    if not isinstance(real, torch.Tensor):
        return [f"is {type(real).__name__} and must be a tensor"]
    if real.dtype != fake.dtype:
        return [f"is {real.dtype} and must be {fake.dtype}"]
    if real.dim() != fake.dim():
        return [f"has {real.dim()} dimensions and must have {fake.dim()}"]
    return bind_symbols(fake, real, sizes)
