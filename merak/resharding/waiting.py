"""Waiting for a redistribution, and noticing that it waits in vain.

Each redistribution is an operation of the group of both its meshes. Ranks that name other meshes meet in another
group: then one waits for the second in one group, and the second for the first in another. So whoever waits for long
writes into the store in which group it does, and reads what the others have written. A rank that stays in a group over
other ranks, which waits for this one, while this one waits for it, will not come: both raise.
"""

from __future__ import annotations

import datetime
import itertools
import json
import time
from collections import Counter

import torch.distributed as dist

from merak import _C, _torch_compat
from merak.resharding.work import NO_LIMIT, ReshardWork

LOOK_EVERY = datetime.timedelta(seconds=3)

_in_flight: Counter[tuple[int, ...]] = Counter()
"""By group, named by its ranks: the redistributions of this process that nobody has waited for yet."""

_meetings = itertools.count()


class Meeting:
    """Of one redistribution.

    Args:
        backend: its group.
        work: it has been started.
    """

    def __init__(self, backend: _C.Backend, work: ReshardWork[None]) -> None:
        self._backend, self._work = backend, work
        self._ranks = tuple(backend.options.global_ranks_in_group) or tuple(range(backend.size()))
        self._number = next(_meetings)
        self._open, self._announced = True, False
        _in_flight[self._ranks] += 1

    def __del__(self) -> None:
        self._leave()

    def wait(self, timeout: datetime.timedelta) -> None:
        """Until it is done, for `timeout` at most unless that is zero."""
        until = time.monotonic() + timeout.total_seconds() if timeout > NO_LIMIT else None
        suspects: dict[int, str] = {}
        try:
            while not self._done_within(_next_look(until)):
                if until is not None and time.monotonic() >= until:
                    self._work.wait(datetime.timedelta(milliseconds=1))  # raises, and says so
                suspects = self._look(suspects)
        finally:
            if self._work.is_completed():
                self._close()

    def _done_within(self, timeout: datetime.timedelta) -> bool:
        try:
            return self._work.wait(timeout)
        except dist.DistBackendError:
            if self._work.is_completed():
                raise
            return False

    def _look(self, suspects: dict[int, str]) -> dict[int, str]:
        """What others wait for that wait for this rank elsewhere; raises for one that still does."""
        store, rank = _torch_compat.default_store(), dist.get_rank()
        store.set(_key(rank), json.dumps([self._number, self._ranks]))
        self._announced = True
        found = {}
        for other in self._ranks:
            if other == rank or not store.check([_key(other)]):
                continue
            words = store.get(_key(other)).decode()
            ranks = tuple(json.loads(words)[1])
            if ranks == self._ranks or rank not in ranks or _in_flight[ranks] > 0:
                continue
            found[other] = words
            if suspects.get(other) == words:
                reason = (
                    f"redistribute: rank {rank} has named meshes of ranks {list(self._ranks)} together, and rank "
                    f"{other} of ranks {list(ranks)}: they wait for each other. All ranks must name the same meshes"
                )
                self._backend.end(reason)
        return found

    def _leave(self) -> None:
        if self._open:
            self._open = False
            _in_flight[self._ranks] -= 1

    def _close(self) -> None:
        self._leave()
        if self._announced and dist.is_initialized():
            _torch_compat.default_store().set(_key(dist.get_rank()), json.dumps([self._number, []]))
            self._announced = False


def _next_look(until: float | None) -> datetime.timedelta:
    if until is None:
        return LOOK_EVERY
    left = max(until - time.monotonic(), 0.001)
    return min(LOOK_EVERY, datetime.timedelta(seconds=left))


def _key(rank: int) -> str:
    return f"merak/redistribute/waits/{rank}"
