"""The room `backend`: how `torch.distributed` gets its backend "merak", and what a process has sent so far.

Users say `torch.distributed.init_process_group("merak")`; what is here they need only for special wishes.
"""

from __future__ import annotations

import atexit
import datetime
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypedDict, cast

from merak import _C, _torch_compat
from merak._torch_compat import C10dBackend, ProcessGroup, Store

if TYPE_CHECKING:
    from merak.backend.environment import Report

__all__ = ["Backend", "Options", "Statistics", "create", "of_group", "report", "statistics"]

Backend = _C.Backend
Options = _C.Backend.Options

# How long the end of a program may wait for its last messages to reach the peers, all groups together.
_LINGER_AT_EXIT = datetime.timedelta(seconds=2)


class Statistics(TypedDict):
    """What this process has done over merak's own transport so far, in all groups, past ones included."""

    bytes_sent: int  # on connections, frame headers included
    bytes_received: int
    operations: int  # collectives, sends and receives that were started


def statistics() -> Statistics:
    """The traffic of this process so far. What NCCL moves for CUDA tensors is not counted."""
    return cast(Statistics, _C.statistics())


def report() -> Report:
    """What was built, what was found and what would be chosen: the facts behind `merak env`, ready for JSON."""
    from merak.backend import environment

    return environment.report()


def create(options: Any, group_options: C10dBackend.Options | None) -> Backend:
    """Makes this rank's backend of one group. Torch calls it; it connects to nobody yet.

    Args:
        options: torch's description of the group: store, rank, size, timeout, name.
        group_options: the `pg_options` the user passed. An `Options` may hold a timeout, which counts when the call
            itself names none; options of NCCL are for the CUDA tensors of the group; others mean nothing here.
    """
    _close_groups_at_exit()
    own = Options(_timeout(options.timeout, group_options))
    own.group_name = options.group_id
    own.global_ranks_in_group = options.global_ranks_in_group
    return Backend(
        options.store,
        options.group_rank,
        options.group_size,
        own,
        registered_name=_torch_compat.name_in_use(options),
        rendezvous_host=_torch_compat.store_host(options.store) or "",
        make_cuda_backend=_nccl_maker(group_options),
    )


def of_group(group: ProcessGroup | None) -> Backend:
    """merak's own object below a group, the default group if None.

    Raises:
        ValueError: there is no such group, or another backend serves its CPU tensors.
    """
    below = _torch_compat.backend_below(group, "cpu")
    if not isinstance(below, Backend):
        raise ValueError(
            f"the group's backend for CPU tensors is {below.name()!r}, where 'merak' is needed: create it with "
            'init_process_group("merak") or new_group(backend="merak").'
        )
    return below


def share_timeout(group: ProcessGroup) -> None:
    """Gives a group that was made without a timeout, as those of meshes are, the default group's instead of torch's.
    Nothing where it is not merak's."""
    own, of_job = _torch_compat.backend_below(group, "cpu"), _torch_compat.timeout_of(None)
    if isinstance(own, Backend) and of_job is not None and own.options._timeout == Options()._timeout:
        own.options._timeout = of_job  # the same object as its own


def _timeout(of_call: datetime.timedelta, group_options: object) -> datetime.timedelta:
    if isinstance(group_options, Options) and of_call == Options()._timeout:
        return group_options._timeout
    return of_call


def _nccl_maker(group_options: object) -> Callable[[Store, int, int, datetime.timedelta, str], C10dBackend]:
    def make(store: Store, rank: int, size: int, timeout: datetime.timedelta, group: str) -> C10dBackend:
        return _torch_compat.make_nccl_backend(store, rank, size, timeout, group, group_options)

    return make


@functools.cache
def _close_groups_at_exit() -> None:
    # Without destroy_process_group peers would see connections that just break.
    atexit.register(_C.close_all_groups, _LINGER_AT_EXIT)
