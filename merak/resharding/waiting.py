"""Waiting for a redistribution, and noticing that it waits in vain.

Each redistribution is an operation of the group of both its meshes. Ranks that name other meshes meet in another
group: then one waits for the second in one group, and the second for the first in another. So whoever waits for long
writes into the store in which group it does, and reads what the others have written. A rank that stays in a group over
other ranks, which waits for this one, while this one waits for it, will not come: both raise.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable

import torch.distributed as dist

from merak import _C, _torch_compat
from merak.resharding.work import NO_LIMIT, ReshardWork

LOOK_EVERY = datetime.timedelta(seconds=3)

_in_flight: Counter[tuple[int, ...]] = Counter()
"""By group, named by its ranks: the redistributions of this process that nobody has waited for yet."""

_meetings = itertools.count()
_begun: set[str] = set()
"""Names of groups that have begun one."""


class Meeting:
    """Of one redistribution.

    Args:
        backend: its group.
    """

    def __init__(self, backend: _C.Backend) -> None:
        self._backend = backend
        self._ranks = tuple(backend.options.global_ranks_in_group) or tuple(range(backend.size()))
        self._work: ReshardWork[None] | None = None
        self._number = next(_meetings)
        self._open, self._announced = True, False
        self._suspects: dict[int, str] = {}
        _in_flight[self._ranks] += 1

    def __del__(self) -> None:
        self._leave()

    def begin(self, start: Callable[[], ReshardWork[None]]) -> ReshardWork[None]:
        """Starts the redistribution; the first one of a group waits until all its ranks have made theirs."""
        name = self._backend.options.group_name
        if name in _begun:
            self._work = start()
            return self._work
        begun = threading.Event()
        watcher = threading.Thread(target=self._watch, args=[begun], daemon=True)
        watcher.start()
        try:
            self._work = start()
        finally:
            begun.set()
            watcher.join()
        _begun.add(name)
        return self._work

    def wait(self, timeout: datetime.timedelta) -> None:
        """Until it is done, for `timeout` at most unless that is zero."""
        until = time.monotonic() + timeout.total_seconds() if timeout > NO_LIMIT else None
        assert self._work is not None
        try:
            while not self._done_within(self._work, _next_look(until)):
                if until is not None and time.monotonic() >= until:
                    self._work.wait(datetime.timedelta(milliseconds=1))  # raises, and says so
                self._look()
        finally:
            if self._work.is_completed():
                self._close()

    @staticmethod
    def _done_within(work: ReshardWork[None], timeout: datetime.timedelta) -> bool:
        try:
            return work.wait(timeout)
        except dist.DistBackendError:
            if work.is_completed():
                raise
            return False

    def _watch(self, begun: threading.Event) -> None:
        while not begun.wait(LOOK_EVERY.total_seconds()):
            with contextlib.suppress(Exception):  # of a store that is gone: who starts it will hear
                self._look()

    def _look(self) -> None:
        """Looks at who waits for this rank elsewhere, and ends the group if one of them still does."""
        store, rank = _torch_compat.default_store(), dist.get_rank()
        store.set(_key(rank), json.dumps([self._number, self._ranks]))
        self._announced = True
        told = _key(rank, self._number)
        if store.check([told]):
            self._backend.end(store.get(told).decode())
        found = {}
        for other in self._ranks:
            if other == rank or not store.check([_key(other)]):
                continue
            words = store.get(_key(other)).decode()
            number, ranks = json.loads(words)[0], tuple(json.loads(words)[1])
            if ranks == self._ranks or rank not in ranks or _in_flight[ranks] > 0:
                continue
            found[other] = words
            if self._suspects.get(other) == words:
                reason = (
                    f"redistribute: rank {rank} has named meshes of ranks {list(self._ranks)} together, and rank "
                    f"{other} of ranks {list(ranks)}: they wait for each other. All ranks must name the same meshes"
                )
                store.set(_key(other, number), reason)
                self._backend.end(reason)
        self._suspects = found

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


def _key(rank: int, told: int | None = None) -> str:
    """Of what a rank waits for; or of what it has been told about one of its redistributions."""
    return f"merak/redistribute/waits/{rank}" if told is None else f"merak/redistribute/told/{rank}/{told}"
