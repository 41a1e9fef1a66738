"""Which rank does what: pipeline ranks outermost, then data-parallel ones, then tensor-parallel ones.

Neighbours in rank order share a host most often. Ranks that share layers exchange the most bytes, several times in each
layer, and gradients are more bytes than what crosses stages: so the ranks of one layer are neighbours, and then those
of one stage. rank = (pipeline rank * dp + data-parallel rank) * tp + tensor-parallel rank; where pipeline ranks have
different tp, those before count dp * tp each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist

from merak._torch_compat import end_group, timeout_of
from merak.planner.plan import Plan

_FAILED = "a step of merak's engine failed on rank"
"""What ranks tell each other: of all ranks, where groups have numbers of their own."""


class Layout:
    """Places and groups of the ranks. Making one is collective over all ranks of the default group.

    Attributes:
        pp_rank, dp_rank, tp_rank: this rank's place.
        tp: how many share this rank's layers; `widths`: those of each pipeline rank.
        replica: group of all ranks of this rank's replica, by pipeline rank and then by place in each layer.
        replicas: group of the ranks with the same parts of the same stages.
        tensor: group of the ranks of this rank's replica that have the same stages; None if there is no other.
        everyone: group of all ranks. The engine's own, so that it can be ended and the program's is as it was.
        groups: all that this rank is in, in the order in which they were made.
    """

    def __init__(self, plan: Plan) -> None:
        world = dist.get_world_size()
        plan.check_world(world)
        self._plan = plan
        self.widths, self.dp = plan.widths, plan.dp
        self.rank = dist.get_rank()
        self.pp_rank, self.dp_rank, self.tp_rank = plan.place_of(self.rank)
        self.tp = self.widths[self.pp_rank]
        self.groups: list[dist.ProcessGroup] = []
        self._timeout = timeout_of(None)
        replicas, stages = range(self.dp), range(plan.pp)
        self.replica = self._mine([[one for p in stages for one in plan.team(p, d)] for d in replicas])
        self.replicas = self._mine(
            [[plan.rank_at(p, d, t) for d in replicas] for p in stages for t in range(self.widths[p])]
        )
        teams = [plan.team(p, d) for p in stages for d in replicas]
        self.tensor = self._one_of([team for team in teams if len(team) > 1])
        self.everyone = self._mine([list(range(world))])

    @property
    def is_even(self) -> bool:
        """Whether all pipeline ranks have as many ranks that share each layer."""
        return len(set(self.widths)) == 1

    @property
    def in_replica(self) -> int:
        """This rank's number among those of its replica."""
        return self.team(self.pp_rank)[self.tp_rank]

    def team(self, pp_rank: int) -> list[int]:
        """The numbers in `replica` of the ranks that share a pipeline rank's layers."""
        begin = sum(self.widths[:pp_rank])
        return list(range(begin, begin + self.widths[pp_rank]))

    def first_of_replica(self, rank: int) -> int:
        """The first rank of a rank's replica."""
        return self._plan.rank_at(0, self._plan.place_of(rank)[1], 0)

    def groups_of(self, pp_ranks: Sequence[Sequence[int]]) -> list[dist.ProcessGroup | None]:
        """For each list of pipeline ranks: the group of those in this rank's replica that have its place in each layer,
        if it is one of them. Where pipeline ranks are not even, only the first places have groups."""
        places = range(self.widths[0] if self.is_even else 1)
        return [
            self._one_of([[self._plan.rank_at(p, d, t) for p in members] for d in range(self.dp) for t in places])
            if len(members) > 1
            else None
            for members in pp_ranks
        ]

    def groups_of_parts(self, sizes: Sequence[int]) -> list[str]:
        """Names of this rank's groups along parts of the axis of the ranks that share its layers, of these sizes, major
        to minor. Collective over each group that is made, and over no other ranks."""
        team, names = self._plan.team(self.pp_rank, self.dp_rank), []
        after = len(team)
        for size in sizes:
            after //= size
            first = self.tp_rank - self.tp_rank // after % size * after
            members = [team[first + number * after] for number in range(size)]
            group = dist.new_group(members, timeout=self._timeout, use_local_synchronization=True)
            assert isinstance(group, dist.ProcessGroup), "this rank is one of them"
            self.groups.append(group)
            names.append(str(group.group_name))
        return names

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
