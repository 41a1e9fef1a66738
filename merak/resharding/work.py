"""What an asynchronous call gives."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")
U = TypeVar("U")

NO_LIMIT = datetime.timedelta(0)


class ReshardWork(dist.Work, Generic[T]):
    """Tensors on their way: a Work, as those of torch.distributed.

    Until `wait()` has returned, sources must not be changed, and targets neither read nor written. (On GPUs the current
    stream waits, as with NCCL.)
    """

    def __init__(
        self,
        work: dist.Work | None,
        finish: Callable[[], T],
        agreed: Callable[[], bool] = lambda: True,
        waiter: Callable[[datetime.timedelta], Any] | None = None,
    ) -> None:
        """
        Args:
            work: None where this rank has nothing to do.
            finish: what is left to do when that is done; called once, by whoever waits first. Gives the result.
            agreed: whether all ranks have started it.
            waiter: instead of `work.wait`.
        """
        super().__init__()
        self._work, self._finish, self.agreed = work, finish, agreed
        self._waiter = waiter if waiter is not None or work is None else work.wait
        self._lock = threading.Lock()
        self._result: list[T] = []  # of one element, once it is there

    def wait(self, timeout: datetime.timedelta = NO_LIMIT) -> bool:
        """Blocks until everything is there.

        Args:
            timeout: of this call; the operation has its own.

        Raises:
            torch.distributed.DistBackendError, DistNetworkError: as of the operation.
        """
        if self._waiter is not None:
            self._waiter(timeout)
        self._finished()
        return True

    def result(self) -> T:  # type: ignore[override]
        """What was asked for; waits for it."""
        self.wait()
        return self._finished()

    def is_completed(self) -> bool:
        """Whether `wait()` would return, or raise, at once."""
        return self._work is None or self._work.is_completed()

    def is_success(self) -> bool:
        return self._work is None or self._work.is_success()

    def exception(self) -> Any:
        return None if self._work is None else self._work.exception()

    def synchronize(self) -> None:
        if self._work is not None:
            self._work.synchronize()

    def get_future(self) -> torch.futures.Future[T]:
        """Of the result."""
        if self._work is None:
            future: torch.futures.Future[T] = torch.futures.Future()
            future.set_result(self._finished())
            return future

        def give(done: torch.futures.Future[Any]) -> T:
            done.value()  # raises what the operation did
            return self._finished()

        return self._work.get_future().then(give)

    def then(self, finish: Callable[[], U], waiter: Callable[[datetime.timedelta], None]) -> ReshardWork[U]:
        """The same work with something else as its result, and another way to wait for it."""

        def finished() -> U:
            self._finished()
            return finish()

        return ReshardWork(self._work, finished, self.agreed, waiter)

    def _finished(self) -> T:
        with self._lock:
            if not self._result:
                self._result.append(self._finish())
            return self._result[0]
