"""Which rank does what: pipeline ranks outermost, then data-parallel ones, then tensor-parallel ones.

Neighbours in rank order share a host most often. Ranks that share layers exchange the most bytes, several times in each
layer, and gradients are more bytes than what crosses stages: so the ranks of one layer are neighbours, and then those
of one stage. rank = (pipeline rank * dp + data-parallel rank) * tp + tensor-parallel rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist

from merak._torch_compat import end_group, timeout_of

_FAILED = "a step of merak's engine failed on rank"
"""What ranks tell each other: of all ranks, where groups have numbers of their own."""


class Layout:
    """Places and groups of the ranks. Making one is collective over all ranks of the default group.

    Attributes:
        pp_rank, dp_rank, tp_rank: this rank's place.
        pipeline: group of the ranks of this rank's replica that have its place in each layer, in order of pipeline
            ranks.
        replicas: group of the ranks with the same parts of the same stages.
        tensor: group of the ranks of this rank's replica that have the same stages; None if there is no other.
        everyone: group of all ranks. The engine's own, so that it can be ended and the program's is as it was.
        groups: all that this rank is in, in the order in which they were made.
    """

    def __init__(self, pp: int, dp: int, tp: int = 1) -> None:
        world = dist.get_world_size()
        if world != pp * dp * tp:
            raise ValueError(
                f"the plan is for {pp * dp * tp} ranks (dp {dp} x tp {tp} x pp {pp}), and {world} are running"
            )
        self.pp, self.dp, self.tp = pp, dp, tp
        self.rank = dist.get_rank()
        self.pp_rank, self.dp_rank, self.tp_rank = self.rank // (dp * tp), self.rank // tp % dp, self.rank % tp
        self.groups: list[dist.ProcessGroup] = []
        self._timeout = timeout_of(None)
        ps, ds, ts = range(pp), range(dp), range(tp)
        self.pipeline = self._mine([[self._at(p, d, t) for p in ps] for d in ds for t in ts])
        self.replicas = self._mine([[self._at(p, d, t) for d in ds] for p in ps for t in ts])
        self.tensor = self._mine([[self._at(p, d, t) for t in ts] for p in ps for d in ds]) if tp > 1 else None
        self.everyone = self._mine([list(range(world))])

    @property
    def in_replica(self) -> int:
        """This rank's number among those of its replica."""
        return self.pp_rank * self.tp + self.tp_rank

    def first_of_replica(self, rank: int) -> int:
        """The first rank of a rank's replica."""
        return self._at(0, rank // self.tp % self.dp, 0)

    def _at(self, pp_rank: int, dp_rank: int, tp_rank: int) -> int:
        return (pp_rank * self.dp + dp_rank) * self.tp + tp_rank

    def groups_of(self, pp_ranks: Sequence[Sequence[int]]) -> list[dist.ProcessGroup | None]:
        """For each list of pipeline ranks: the group of those in this rank's pipeline, if it is one of them."""
        return [
            self._one_of([[self._at(p, d, t) for p in places] for d in range(self.dp) for t in range(self.tp)])
            if len(places) > 1
            else None
            for places in pp_ranks
        ]

    def open(self) -> None:
        """Opens the connections of all groups, after which the end of any rank is noticed by the others at once. Else
        they would be opened at first use, and a rank that is gone by then would be waited for."""
        for group in self.groups:  # one order everywhere, so that no rank waits for another in two of them
            dist.barrier(group=group)

    def end(self, error: str) -> None:
        """Ends all groups, after an error here: whatever other ranks wait for in them fails. They are told who was the
        first to fail, with which error."""
        first = error.find(_FAILED)
        reason = error[first:] if first >= 0 else f"{_FAILED} {self.rank}: {error}"
        for group in self.groups:
            end_group(group, reason)

    def _mine(self, ranks: list[list[int]]) -> dist.ProcessGroup:
        group = self._one_of(ranks)
        assert group is not None, "every rank is in one of them"
        return group

    def _one_of(self, ranks: list[list[int]]) -> dist.ProcessGroup | None:
        """Makes all these groups, in one order everywhere; the one that this rank is in."""
        mine = None
        for members in ranks:
            group = dist.new_group(members, timeout=self._timeout)
            if self.rank in members and isinstance(group, dist.ProcessGroup):
                mine = group
                self.groups.append(group)
        return mine
