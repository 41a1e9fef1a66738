"""Nested inputs and outputs of models, as a flat list of leaves and a template to build them again.

Branches are mappings (Hugging Face's outputs and batches among them), lists, tuples, named tuples and dataclasses; all
else is a leaf. A leaf's *path* is what leads to it, such as `past.0.key`. Nothing has to be registered.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch


class Leaf(NamedTuple):
    """The place of a leaf in a template."""

    number: int


class Branch(NamedTuple):
    """A container in a template: its class, and templates of what is in it by key (fields or positions)."""

    kind: type
    children: dict[Any, Leaf | Branch]


Template = Leaf | Branch


class Flat(NamedTuple):
    """What `flatten` makes of a value: paths and leaves, one for one, and the template that `rebuild` takes."""

    paths: list[str]
    leaves: list[Any]
    template: Template


def flatten(value: Any) -> Flat:
    """Takes containers apart, in their own order."""
    flat = Flat([], [], Leaf(0))
    return flat._replace(template=_flatten(value, "", flat))


def rebuild(template: Template, leaves: Sequence[Any]) -> Any:
    """The value that the template was made of, with other leaves. Mappings that are not dataclasses become dicts."""
    if isinstance(template, Leaf):
        return leaves[template.number]
    children = {key: rebuild(child, leaves) for key, child in template.children.items()}
    kind = template.kind
    if dataclasses.is_dataclass(kind) or hasattr(kind, "_fields"):
        return kind(**children)
    if issubclass(kind, Mapping):
        return children
    make: Callable[[list[Any]], Any] = kind
    return make(list(children.values()))


def with_tensors(leaves: Sequence[Any], tensors: Sequence[Any]) -> list[Any]:
    """The leaves with other tensors, one for each that there is, in order."""
    remaining = iter(tensors)
    return [next(remaining) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]


def map_leaves(function: Callable[[Any], Any], value: Any) -> Any:
    """The same containers with `function` of each leaf."""
    flat = flatten(value)
    return rebuild(flat.template, [function(leaf) for leaf in flat.leaves])


def _flatten(value: Any, path: str, flat: Flat) -> Template:
    children = _children(value)
    if children is None:
        flat.paths.append(path)
        flat.leaves.append(value)
        return Leaf(len(flat.leaves) - 1)
    prefix = f"{path}." if path else ""
    return Branch(type(value), {key: _flatten(child, f"{prefix}{key}", flat) for key, child in children.items()})


def _children(value: Any) -> dict[Any, Any] | None:
    """What a container holds, by key; None for a leaf."""
    if isinstance(value, Mapping):
        # Outputs of Hugging Face are mappings of those of their fields that are not None.
        return dict(value.items())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=True))
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    return None
