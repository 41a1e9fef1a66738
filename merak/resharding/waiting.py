"""Waiting for a redistribution, and noticing that it waits in vain.

Each redistribution is an operation of the group of both its meshes. Ranks that name other meshes meet in another
group: then one waits in one group for the second to come, and the second in another group for the first. Once all
ranks have come, and agree, nothing can go wrong in this way any more. So whoever waits for long until then writes into
the store in which group it does, and which it takes part in otherwise; and reads what the others have written. If
another rank waits for this one in a group that it does not take part in, and does not take part in its group, neither
will ever come: both raise.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable

import torch.distributed as dist

from merak import _C, _torch_compat
from merak.resharding.work import NO_LIMIT, ReshardWork

LOOK_EVERY = datetime.timedelta(seconds=3)

_in_flight: Counter[tuple[int, ...]] = Counter()
"""By group, named by its ranks: the redistributions of this process that nobody has waited for yet."""

_meetings = itertools.count()
_begun: weakref.WeakKeyDictionary[dist.ProcessGroup, set[tuple[int, ...]]] = weakref.WeakKeyDictionary()
"""By default group: groups that have begun one."""


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
        try:
            self._leave()
        except Exception:  # at the end of the program what it needs may be gone
            return

    def begin(self, start: Callable[[], ReshardWork[None]]) -> ReshardWork[None]:
        """Starts the redistribution; the first one of a group waits until all its ranks have made theirs."""
        assert dist.group.WORLD is not None
        begun = _begun.setdefault(dist.group.WORLD, set())
        if self._ranks in begun:
            self._work = start()
            return self._work
        started = threading.Event()
        watcher = threading.Thread(target=self._watch, args=[started], daemon=True)
        watcher.start()
        try:
            self._work = start()
        finally:
            started.set()
            watcher.join()
        begun.add(self._ranks)
        return self._work

    def wait(self, timeout: datetime.timedelta) -> None:
        """Until it is done, for `timeout` at most unless that is zero."""
        work = self._work
        assert work is not None
        until = time.monotonic() + timeout.total_seconds() if timeout > NO_LIMIT else float("inf")
        try:
            while not work.agreed():
                left = until - time.monotonic()
                if left <= LOOK_EVERY.total_seconds():
                    break
                with contextlib.suppress(dist.DistBackendError):  # it goes on, or has failed, as will be seen below
                    work.wait(LOOK_EVERY)
                if work.is_completed():
                    break
                self._look()
            left = max(until - time.monotonic(), 1e-3)
            work.wait(NO_LIMIT if left == float("inf") else datetime.timedelta(seconds=left))
        finally:
            if work.is_completed():
                self._leave()

    def _watch(self, started: threading.Event) -> None:
        while not started.wait(LOOK_EVERY.total_seconds()):
            self._look()

    def _look(self) -> None:
        """Looks at who waits for this rank elsewhere, and ends the group if one of them still does. A store that is
        gone says nothing: the operation has a deadline of its own."""
        with contextlib.suppress(dist.DistError, RuntimeError, ValueError):
            self._compare(_torch_compat.default_store(), dist.get_rank())

    def _compare(self, store: _torch_compat.Store, rank: int) -> None:
        elsewhere = [ranks for ranks, count in _in_flight.items() if count > 0]
        store.set(_key(rank), json.dumps([self._number, self._ranks, elsewhere]))
        self._announced = True
        told = _key(rank, self._number)
        if store.check([told]):
            self._backend.end(store.get(told).decode())
        found = {}
        for other in self._ranks:
            if other == rank or not store.check([_key(other)]):
                continue
            words = store.get(_key(other)).decode()
            number, ranks, takes_part = json.loads(words)
            waits_for_this = rank in ranks and _in_flight[tuple(ranks)] == 0
            if not waits_for_this or list(self._ranks) in takes_part:
                continue
            found[other] = words
            if self._suspects.get(other) == words:
                reason = (
                    f"redistribute: rank {rank} has named meshes of ranks {list(self._ranks)} together, and rank "
                    f"{other} of ranks {ranks}: they wait for each other. All ranks must name the same meshes"
                )
                store.set(_key(other, number), reason)
                self._backend.end(reason)
        self._suspects = found

    def _leave(self) -> None:
        if not self._open:
            return
        self._open = False
        _in_flight[self._ranks] -= 1
        if self._announced:
            with contextlib.suppress(Exception):  # the store, or the interpreter, may be gone
                _torch_compat.default_store().set(_key(dist.get_rank()), json.dumps([self._number, [], []]))


def _key(rank: int, told: int | None = None) -> str:
    """Of what a rank waits for; or of what it has been told about one of its redistributions."""
    return f"merak/redistribute/waits/{rank}" if told is None else f"merak/redistribute/told/{rank}/{told}"
