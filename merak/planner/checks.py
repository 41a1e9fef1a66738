"""Checks of numbers that people write, in constructors and in files.

What is wrong is named by its *field*: `hosts` where a constructor finds it, `groups[1].hosts` where a file had it,
since each object that holds another says which of its fields that was (`within`).
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any


class WrongFieldError(ValueError):
    """A field, and what is wrong with it."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field} {problem}" if field else problem)
        self.field, self.problem = field, problem


@contextlib.contextmanager
def within(outer: str) -> Iterator[None]:
    """Fields that are wrong within it are fields of `outer`."""
    try:
        yield
    except WrongFieldError as error:
        raise WrongFieldError(f"{outer}.{error.field}" if error.field else outer, error.problem) from error


def check_number(field: str, value: Any, expected: str, least: float | None = None) -> float:
    """A finite number above 0; or `least` and more."""
    if not _is_finite(value) or (value <= 0 if least is None else value < least):
        bound = "above 0" if least is None else f"of {least:g} or more"
        raise WrongFieldError(field, f"is {value!r}; expected {expected}, a number {bound}")
    return float(value)


def check_whole(field: str, value: Any, expected: str) -> int:
    """A whole number of 1 or more; 8e10 is one too."""
    if not _is_finite(value) or value != int(value) or value < 1:
        raise WrongFieldError(field, f"is {value!r}; expected {expected}, a whole number of 1 or more")
    return int(value)


def _is_finite(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max and not math.isnan(value)


def check_text(field: str, value: Any, expected: str) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise WrongFieldError(field, f"is {value!r}; expected {expected}, a text")
    return value


def check_mapping(field: str, value: Any, expected: str) -> Mapping[str, Any]:
    """Names and values."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise WrongFieldError(field, f"is {value!r}; expected {expected}, as {{name: value}}")
    return value


def check_fields(value: Any, needed: Collection[str], optional: Collection[str] = ()) -> Mapping[str, Any]:
    """An object of a file that has all fields that are needed, and none that is unknown."""
    expected = f"the fields {', '.join(needed)}" + (f" and perhaps {', '.join(optional)}" if optional else "")
    if not isinstance(value, Mapping):
        raise WrongFieldError("", f"is {value!r}; expected {expected}, as {{name: value}}")
    for name in value:
        if name not in needed and name not in optional:
            raise WrongFieldError(name, f"is {value[name]!r}, and no such field is known; expected {expected}")
    for name in needed:
        if name not in value:
            raise WrongFieldError(name, f"is missing; expected {expected}")
    return value
