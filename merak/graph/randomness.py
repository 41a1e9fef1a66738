"""Random operations whose numbers do not depend on where and when they run.

One eager process draws all its random numbers from one stream, so that cutting a model, or running micro-batches in
another order, would change them. Here every random operation seeds the generator before it draws, from the run's seed,
the step, the micro-batch (counted over all data-parallel ranks) and the operation's name in the captured graph. So
dropout is the same for any plan, and the same again when a forward is recomputed, without a state to be kept.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

_MASK = (1 << 64) - 1


class RandomState:
    """What the random operations of this process draw for: set by whoever runs a graph."""

    _base = 0

    @classmethod
    def set(cls, seed: int, step: int, microbatch: int) -> None:
        """From now on, operations draw for that micro-batch of that step."""
        cls._base = _mixed(_mixed(_mixed(seed & _MASK) ^ step) ^ microbatch)

    @classmethod
    def seed_for(cls, operation: int) -> int:
        """The seed of the operation with that hash of its name."""
        return _mixed(cls._base ^ operation)


class SeededCall:
    """A random operation that seeds its device's generator first. Called by graphs, in place of the operation."""

    def __init__(self, operation: torch._ops.OpOverload, name: str) -> None:
        self.operation, self.name = operation, name
        self._hash = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
        # What torch.fx names it by in the code that it writes.
        self.__name__ = f"seeded_{operation.__name__.split('.')[0]}"
        self.__module__ = __name__

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        tensor = next((arg for arg in args if isinstance(arg, torch.Tensor)), None)
        device = torch.device(kwargs.get("device") or "cpu") if tensor is None else tensor.device
        _generator(device).manual_seed(RandomState.seed_for(self._hash))
        return self.operation(*args, **kwargs)


def seed_random_operations(graph: fx.Graph, prefix: str = "") -> list[str]:
    """Replaces every random operation of a graph, in place, those in regions (autocast) too; their names."""
    names = []
    for node in graph.nodes:
        if (region := region_of(node)) is not None:
            names += seed_random_operations(region.graph, f"{prefix}{node.name}.")
            region.recompile()
        elif operation_of(node) is node.target and is_random(node):
            names.append(prefix + node.name)
            node.target = SeededCall(node.target, names[-1])  # type: ignore[arg-type]
    return names


def operation_of(node: fx.Node) -> torch._ops.OpOverload | None:
    """The operation of PyTorch's that a node calls, seeded or not; None for all else."""
    target = node.target.operation if isinstance(node.target, SeededCall) else node.target
    return target if node.op == "call_function" and isinstance(target, torch._ops.OpOverload) else None


def region_of(node: fx.Node) -> fx.GraphModule | None:
    """What a `get_attr` gets, if it is a part of the graph (under autocast, say) that another node calls."""
    got = getattr(node.graph.owning_module, str(node.target), None) if node.op == "get_attr" else None
    return got if isinstance(got, fx.GraphModule) else None


def is_random(node: fx.Node) -> bool:
    """Whether an operation draws random numbers. Dropout in evaluation, or of probability 0, does not."""
    if isinstance(node.target, SeededCall):
        return True
    target = operation_of(node)
    if target is None:
        regions = [region for source in node.all_input_nodes if (region := region_of(source)) is not None]
        return any(is_random(inner) for region in regions for inner in region.graph.nodes)
    if torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    given = dict(zip((argument.name for argument in target._schema.arguments), node.args, strict=False)) | node.kwargs
    if given.get("train") is False or given.get("training") is False:
        return False
    return not any(given.get(name, 1) == 0 for name in ("p", "dropout_p", "dropout")) and not (
        "dropout_p" in (argument.name for argument in target._schema.arguments) and "dropout_p" not in given
    )


@contextlib.contextmanager
def generators_kept(device: torch.device) -> Iterator[None]:
    """Gives the device's generator back the state that it had: the user's own stream goes on as if nothing happened."""
    generator = _generator(device)
    state = generator.get_state()
    try:
        yield
    finally:
        generator.set_state(state)


def _generator(device: torch.device) -> torch.Generator:
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[index]
    return torch.default_generator


def _mixed(value: int) -> int:
    """The finaliser of splitmix64: every bit of the result depends on every bit of the value."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
