"""Fixtures of the backend's tests: the pool of ranks, and the backend under test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.backend.comparison import assert_same
from tests.backend.harness import RankPool

BACKEND = os.environ.get("MERAK_TEST_BACKEND", "merak")
"""The backend under test. `MERAK_TEST_BACKEND=gloo pytest tests/backend` checks the tests themselves on Gloo."""


@pytest.fixture(scope="session")
def pool() -> Iterator[RankPool]:
    with RankPool() as ranks:
        yield ranks


@pytest.fixture
def backend() -> str:
    return BACKEND


Runner = Callable[..., list[Any]]


@pytest.fixture
def run(pool: RankPool) -> Runner:
    """`pool.run` on the backend under test."""

    def on_backend(body: Callable[..., Any], *arguments: Any, **keywords: Any) -> list[Any]:
        return pool.run(body, *arguments, **({"backend": BACKEND} | keywords))

    return on_backend


@pytest.fixture
def same_as_gloo(pool: RankPool) -> Callable[..., list[Any]]:
    """Runs a body on the backend under test and on Gloo and asserts equal results, rank by rank; returns them.

    With `exact=True` tensors must be equal bit for bit: right where every sum has two terms, whose order cannot matter,
    or where the values are small integers. Else they must agree to within torch's defaults for their dtype.
    """

    def check(body: Callable[..., Any], *arguments: Any, exact: bool = False, **keywords: Any) -> list[Any]:
        ours = pool.run(body, *arguments, backend=BACKEND, **keywords)
        theirs = pool.run(body, *arguments, backend="gloo", **keywords)
        assert_same(ours, theirs, exact=exact)
        return ours

    return check
