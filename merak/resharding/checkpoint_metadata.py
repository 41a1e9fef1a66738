"""What the `.metadata` file of a checkpoint of torch.distributed.checkpoint says, read as data.

torch writes the file with pickle, whose reader would call whatever the file names. Here nothing is called: the file's
instructions are walked through one by one (`pickletools` splits them), and an object becomes a `Named`: what it is
called, what it would be made from, and its attributes. Instructions that such files do not have are refused.
"""

from __future__ import annotations

import dataclasses
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

_MOST_BYTES = 1 << 30


@dataclasses.dataclass(eq=False)
class Named:
    """Something that the file names."""

    name: str
    """With its module: "torch.Size"."""
    arguments: Any = ()
    state: Any = None

    def __getattr__(self, attribute: str) -> Any:
        if isinstance(self.state, dict) and attribute in self.state:
            return self.state[attribute]
        raise AttributeError(f"{self.name} has no {attribute}")


_MARK = object()


class _Reader:
    """A stack of values, and those that were kept for later."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: list[Any] = []

    def since_mark(self) -> list[Any]:
        found = []
        while (value := self.stack.pop()) is not _MARK:
            found.append(value)
        return found[::-1]

    def run(self, data: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return self.stack.pop()
            if opcode.name in _CONSTANTS:
                self.stack.append(_CONSTANTS[opcode.name])
            elif opcode.name in _LITERALS:
                self.stack.append(argument)
            elif opcode.name in _INSTRUCTIONS:
                _INSTRUCTIONS[opcode.name](self, argument)
            elif opcode.name not in ("PROTO", "FRAME"):
                raise ValueError(f"instruction {opcode.name}")
        raise ValueError("it ends too soon")

    def put(self, value: Any) -> None:
        self.stack.append(value)

    def tuple_of(self, count: int) -> None:
        self.stack[len(self.stack) - count :] = [tuple(self.stack[len(self.stack) - count :])]

    def call(self) -> None:
        arguments, named = self.stack.pop(), self.stack.pop()
        if not isinstance(named, Named):
            raise ValueError("a call of something without a name")
        self.put(Named(named.name, arguments))

    def build(self) -> None:
        state = self.stack.pop()
        self.stack[-1].state = state

    def set_items(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise ValueError("items of something that is no dictionary")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def global_name(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.put(Named(f"{module}.{name}"))


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "MARK": _MARK}
_LITERALS = frozenset(
    ["SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"]
)
_INSTRUCTIONS: dict[str, Callable[[_Reader, Any], Any]] = {
    "EMPTY_DICT": lambda reader, _: reader.put({}),
    "EMPTY_LIST": lambda reader, _: reader.put([]),
    "TUPLE1": lambda reader, _: reader.tuple_of(1),
    "TUPLE2": lambda reader, _: reader.tuple_of(2),
    "TUPLE3": lambda reader, _: reader.tuple_of(3),
    "TUPLE": lambda reader, _: reader.put(tuple(reader.since_mark())),
    "MEMOIZE": lambda reader, _: reader.memo.append(reader.stack[-1]),
    "BINGET": lambda reader, index: reader.put(reader.memo[index]),
    "LONG_BINGET": lambda reader, index: reader.put(reader.memo[index]),
    "STACK_GLOBAL": lambda reader, _: reader.global_name(),
    "REDUCE": lambda reader, _: reader.call(),
    "NEWOBJ": lambda reader, _: reader.call(),
    "BUILD": lambda reader, _: reader.build(),
    "SETITEM": lambda reader, _: reader.set_items([reader.stack.pop(-2), reader.stack.pop()]),
    "SETITEMS": lambda reader, _: reader.set_items(reader.since_mark()),
    "APPEND": lambda reader, _: reader.stack[-2].append(reader.stack.pop()),
    "APPENDS": lambda reader, _: (lambda items: reader.stack[-1].extend(items))(reader.since_mark()),
}


def read_metadata(path: Path) -> Named:
    """The file's `torch.distributed.checkpoint.metadata.Metadata`.

    Raises:
        ValueError: it is something else.
        OSError: it cannot be read.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path} has more than {_MOST_BYTES} bytes")
    try:
        found = _Reader().run(path.read_bytes())
    except Exception as error:
        raise ValueError(f"{path} cannot be read as the metadata of a checkpoint: {error!r}") from error
    if not isinstance(found, Named) or found.name != "torch.distributed.checkpoint.metadata.Metadata":
        raise ValueError(f"{path} cannot be read as the metadata of a checkpoint: it is something else")
    return found
