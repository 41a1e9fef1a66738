"""Fixtures of the tests on several ranks: the backend tests' pool of ranks."""

from tests.backend.conftest import backend, pool, run

__all__ = ["backend", "pool", "run"]
