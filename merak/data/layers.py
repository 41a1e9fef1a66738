"""Finding the layers of a transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

Which = str | Sequence[int] | Sequence[str]


def find_layers(model: nn.Module, which: Which) -> list[nn.Module]:
    """Layers of a model that may drop tokens.

    A model's *stack* is its one `nn.ModuleList` of layers of the same class, not counting lists within those layers (of
    experts, say).

    Args:
        which: "middle", all of the stack but the first and the last; "all"; numbers of layers of the stack; or modules'
            names, of any model.

    Raises:
        ValueError: there is no such list, or more than one; the stack has no middle; a layer does not exist, or is
            named twice.
    """
    if not isinstance(which, str) and which and all(isinstance(one, str) for one in which):
        modules = dict(model.named_modules())
        if missing := [name for name in which if name not in modules]:
            raise ValueError(f"the model has no module {missing[0]!r}: model.named_modules() lists them")
        return _distinct([modules[str(name)] for name in which])
    name, stack = find_stack(model)
    if which == "all":
        return list(stack)
    if which == "middle":
        if len(stack) < 3:
            raise ValueError(
                f"{name} has {len(stack)} layers, so that none is in the middle: name layers, or use 'all'"
            )
        return list(stack)[1:-1]
    numbers: list[Any] = [] if isinstance(which, str) else list(which)
    if not numbers or not all(isinstance(one, int) and -len(stack) <= one < len(stack) for one in numbers):
        raise ValueError(
            f"layers are {which!r}: use 'middle', 'all', numbers below {len(stack)} of {name}, or names of modules"
        )
    return _distinct([stack[number] for number in numbers])


def find_stack(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The name of the model's stack, and the stack."""
    stacks = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) > 1 and len({kind_of(layer) for layer in module}) == 1
    }
    outer = {
        name: module
        for name, module in stacks.items()
        if not any(name != other and name.startswith(f"{other}.") for other in stacks)
    }
    if not outer:
        raise ValueError(
            f"no layers are found in {type(model).__name__}: it has no nn.ModuleList of layers of one class. "
            "Name them: layers=['blocks.1', 'blocks.2']"
        )
    if len(outer) > 1:
        raise ValueError(
            f"{type(model).__name__} has several lists of layers, {', '.join(outer)}: name the layers that are to drop "
            f"tokens, such as layers=['{next(iter(outer))}.1']"
        )
    return next(iter(outer.items()))


def kind_of(layer: nn.Module) -> type[nn.Module]:
    """The class of a layer, before it was made to drop tokens."""
    kind: type[nn.Module] = getattr(type(layer), "_merak_kind", type(layer))
    return kind


def _distinct(layers: list[nn.Module]) -> list[nn.Module]:
    if len(set(map(id, layers))) < len(layers):
        raise ValueError("a layer is named twice, or shared: it can drop tokens once in a pass")
    return layers
