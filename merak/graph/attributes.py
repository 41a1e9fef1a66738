"""What a model's modules hold beside parameters and buffers, around a capture.

A graph has what `forward` computes, and none of what it does to Python's objects: a count of calls would stay at 1 for
good. So all that `forward` changes is put back, and noted; whoever captures then asks whether a second call, with what
the first has changed, computes the same (`second_call`). Caches do, and what is only there to be looked at.

Looked at are the attributes of all modules, what is in lists, dicts and sets, and the attributes of other objects
(configurations), a few levels deep.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

_DEPTH, _LARGEST = 4, 1000
_PLAIN = int | float | complex | str | bytes | bool | None
_OPAQUE = (nn.Module, torch.Tensor, type, types.ModuleType, types.FunctionType, types.MethodType)


class _Held(NamedTuple):
    """A value as it was: itself, and what was in it."""

    value: Any
    inside: dict[Any, _Held] | None


class Attributes:
    """The attributes of a model's modules at one time."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = list(model.named_modules())
        seen: set[int] = set()
        self._held = [_hold(vars(module), seen, _DEPTH) for _, module in self._modules]

    def changed(self) -> list[str]:
        """Names of those that are not what they were. Buffers only if they were none."""
        found = []
        for (name, module), held in zip(self._modules, self._held, strict=True):
            found += [f"{name}.{key}".lstrip(".") for key in _differences(vars(module), held)]
        return found

    def put_back(self) -> None:
        """Makes all of them what they were."""
        for held in self._held:
            _put_back(held)


def _hold(value: Any, seen: set[int], depth: int) -> _Held:
    contents = _contents(value)
    if contents is None or depth == 0 or len(contents) > _LARGEST or id(value) in seen:
        return _Held(value, None)
    seen.add(id(value))
    return _Held(value, {key: _hold(one, seen, depth - 1) for key, one in contents.items()})


def _contents(value: Any) -> dict[Any, Any] | None:
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, list):
        return dict(enumerate(value))
    if isinstance(value, set):
        return dict.fromkeys(value)
    if isinstance(value, _OPAQUE) or type(value).__module__.startswith("torch"):
        return None
    found = getattr(value, "__dict__", None)
    return found if isinstance(found, dict) else None


def _differences(value: Any, held: _Held) -> Iterator[Any]:
    """Keys of what in a value has changed."""
    assert held.inside is not None
    now = _contents(value) or {}
    for key in dict.fromkeys([*held.inside, *now]):
        if key in ("_buffers", "_non_persistent_buffers_set"):
            yield from _new_buffers(now[key], held.inside[key])
        elif key not in now or key not in held.inside or not _is_same(now[key], held.inside[key]):
            yield key


def _new_buffers(buffers: Any, held: _Held) -> Iterator[str]:
    """Those that were not there, or None."""
    if isinstance(buffers, dict):
        before = {key: one.value for key, one in (held.inside or {}).items()}
        yield from (key for key, now in buffers.items() if before.get(key) is None and now is not None)


def _is_same(now: Any, held: _Held) -> bool:
    if held.inside is not None:
        return type(now) is type(held.value) and not any(_differences_inside(now, held))
    if isinstance(now, _PLAIN) and isinstance(held.value, _PLAIN):
        return type(now) is type(held.value) and (now == held.value or (now != now and held.value != held.value))
    return now is held.value


def _differences_inside(value: Any, held: _Held) -> Iterator[bool]:
    assert held.inside is not None
    now = _contents(value) or {}
    yield now.keys() != held.inside.keys()
    yield from (not _is_same(now[key], one) for key, one in held.inside.items() if key in now)


def _put_back(held: _Held) -> None:
    if held.inside is None:
        return
    for one in held.inside.values():
        _put_back(one)
    before = {key: one.value for key, one in held.inside.items()}
    now = _contents(held.value) or {}
    if now.keys() == before.keys() and all(now[key] is before[key] for key in before):
        return
    if isinstance(held.value, list):
        held.value[:] = before.values()
    elif isinstance(held.value, set):
        held.value.clear()
        held.value.update(before)
    else:
        mapping = held.value if isinstance(held.value, dict) else vars(held.value)
        mapping.clear()
        mapping.update(before)
