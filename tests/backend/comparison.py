"""Equality of what ranks return: nested lists, tuples and dictionaries of tensors, numbers and anything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def assert_same(got: Any, wanted: Any, *, exact: bool = True, at: str = "result") -> None:
    """Asserts that two structures are equal; their floating-point values bit for bit, or if not `exact` to within
    torch's defaults for the dtype. NaN equals NaN. The message says where in the structure they differ."""
    if isinstance(wanted, Mapping):
        assert list(got) == list(wanted), at
        for key in wanted:
            assert_same(got[key], wanted[key], exact=exact, at=f"{at}[{key!r}]")
    elif isinstance(wanted, list | tuple):
        assert len(got) == len(wanted), at
        for index, pair in enumerate(zip(got, wanted, strict=True)):
            assert_same(*pair, exact=exact, at=f"{at}[{index}]")
    elif isinstance(wanted, torch.Tensor | float):
        limits = {"rtol": 0.0, "atol": 0.0} if exact else {"rtol": None, "atol": None}
        torch.testing.assert_close(got, wanted, equal_nan=True, msg=lambda text: f"{at}: {text}", **limits)
    else:
        assert got == wanted, at
