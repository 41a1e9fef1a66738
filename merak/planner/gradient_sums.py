"""How long replicas take to agree on gradients.

They are summed as soon as a stage has them, by a ring through the ranks with the same part of the same stage. As many
rings share a host's link as there are parts on a host. With ZeRO-1 parameters are gathered afterwards, which takes as
long as the other half of an all-reduce.

*Tables* that only embeddings read have gradients of a few rows. Where a plan's `data_parallel` is "sparse" these travel
by the room `sparse`: what a rank sends is, in rows, the least of that room's formulas (docs/sparse.md). How many
different rows a batch touches depends on its tokens, which nobody knows here: it is taken to be as many as it looks up,
but no more than there are. Text that repeats its words is faster than that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from merak.graph.cutting import Cut
from merak.planner.cluster import Cluster
from merak.planner.collective_times import LinearTime
from merak.planner.plan import Plan
from merak.planner.prices import Prices
from merak.planner.workload import Table


def sum_of_gradients(cluster: Cluster, ring: Sequence[int], team: Sequence[int]) -> LinearTime:
    """Over replicas, by the bytes of a rank's parameters.

    Args:
        ring: the ranks of all replicas with the same part of a stage.
        team: the ranks that share it: those on a host have their rings over its link at the same time.
    """
    if len(ring) == 1:
        return LinearTime(0.0, 0.0)
    return cluster.linear_time(
        "all_reduce", ring, sum(cluster.host_of(one) == cluster.host_of(team[0]) for one in team)
    )


def reduction_s(plan: Plan, prices: Prices, rows: int, pp_rank: int, cut: Cut, number: Callable[[int], int]) -> float:
    """The sums of a pipeline rank's gradients over replicas, and of those of which ranks that share layers have parts.

    Args:
        rows: of a step's batch, of all replicas together.
        number: from a position in the trunk to the number that it has in the cut.
    """
    cluster, team = prices.cluster, plan.team(pp_rank)
    stages = [stage for stage in cut.stages if stage.rank == pp_rank]
    nbytes = sum(stage.parameter_bytes for stage in stages)
    ring = [plan.rank_at(pp_rank, replica, 0) for replica in range(plan.dp)]
    if plan.data_parallel == "sparse" and plan.dp > 1:
        for table in prices.workload.tables:
            if any(stage.first <= number(table.position) < stage.end for stage in stages):
                share = prices.shared(len(team), plan.sequence_parallel).parameters.get(table.name, 1.0)
                nbytes += share * (as_dense_bytes(table, rows / plan.dp, plan.dp) - table.nbytes)
    seconds = sum_of_gradients(cluster, ring, team).of(nbytes)
    if len(team) > 1:
        share = len(stages) / plan.n_stages
        seconds += cluster.seconds("all_reduce", prices.shared(len(team), plan.sequence_parallel).summed * share, team)
    return seconds


def as_dense_bytes(table: Table, rows: float, replicas: int) -> float:
    """Of how many bytes a dense all-reduce sends as much as the sparse one of this table's gradient.

    Args:
        rows: of a replica's batch.
    """
    touched = min(table.lookups.at(rows), table.rows)
    bitmap = min(table.rows / 8, 4 * touched) * (replicas - 1)
    sent = rows_sent(replicas, touched, table.rows) * table.nbytes / table.rows + bitmap
    return min(table.nbytes, sent * replicas / (2 * (replicas - 1)))


def rows_sent(ranks: int, touched: float, rows: int) -> float:
    """By each of these ranks, of which each has touched so many of a table's rows, no two of them the same if there are
    enough."""
    union = min(rows, ranks * touched)
    return min(
        (ranks - 1) * touched,  # gather
        touched + (ranks - 2) * union / ranks,  # balanced
        2 * (ranks - 1) * union / ranks,  # packed
    )
