"""Schedules of a pipelined training step: lists of actions, one list a rank.

Making, checking and simulating them is C++ (csrc/pipeline); this is its Python face. Nothing communicates here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from merak import _C

if TYPE_CHECKING:
    from merak.pipeline.simulation import Costs, Simulation

KINDS: tuple[str, ...] = tuple(_C.schedule_kinds())
"""Of schedules: "gpipe", "1f1b", "interleaved", "looped-bfs", "zero-bubble", "zbv", "eager", "eager-delayed",
"shifted"."""

_MOST = 2**31 - 1

Edge = tuple[int, int] | tuple[int, int, bool]
"""Producer stage, consumer stage, and whether the value's gradient comes back (by default it does)."""


class Action(NamedTuple):
    """One act of one rank.

    Attributes:
        stage: where it happens.
        kind: "F" forward, "B" backward, "I" backward for the inputs, "W" backward for the weights, "R" recompute;
            "SEND_F", "RECV_F", "WAIT_F" for values, "SEND_B", "RECV_B", "WAIT_B" for gradients; "REDUCE_GRAD".
        microbatch: -1 for none.
        peer: the stage at the other end of a SEND, RECV or WAIT; else -1.
    """

    stage: int
    kind: str
    microbatch: int = -1
    peer: int = -1


class Schedule:
    """What each rank does in a training step, in order. Immutable: the passes return another schedule."""

    def __init__(self, schedule: _C.PipelineSchedule, notes: Sequence[str] = ()) -> None:
        """Use `make` or `from_csv`."""
        self._schedule = schedule
        self.notes = tuple(notes)
        """What `from_csv` left out."""

    @staticmethod
    def make(
        kind: str,
        *,
        microbatches: int,
        stages: int | None = None,
        ranks: int | None = None,
        recompute: bool | Collection[int] | Sequence[bool] | None = None,
        pre_recompute: bool | None = None,
        edges: Iterable[Edge] | None = None,
        receives_ahead: int = _C.RECEIVES_AHEAD,
        communication: bool = True,
        reduction: bool = True,
    ) -> Schedule:
        """A schedule of a kind (see `KINDS` and docs/pipeline.md), ready to run.

        Args:
            stages: of the model, all ranks together; by default one a rank (two for "zbv").
            ranks: by default one a stage (half as many for "zbv").
            recompute: which stages recompute: all, none, a set of stages, or a bool for each stage. By default those of
                "shifted" do, and no others. The last stage of "shifted" never does: it would gain nothing.
            pre_recompute: whether R goes before the wait for the gradient. By default for "shifted" alone.
            edges: which stages' values which later stages need; by default each stage's the next.
            receives_ahead: how many computing actions before its use a receive is posted.
            communication, reduction: whether it has SEND, RECV and WAIT; whether it has REDUCE_GRAD.
        Raises:
            ValueError: there is no such schedule.
        """
        of_rank = 2 if kind == "zbv" else 1
        if stages is None:
            stages = of_rank * (1 if ranks is None else ranks)
        if ranks is None:
            ranks = max(1, stages // of_rank)
        sizes = {"stages": stages, "ranks": ranks, "microbatches": microbatches, "receives_ahead": receives_ahead}
        for name, size in sizes.items():
            if abs(size) > _MOST:
                raise ValueError(f"{name}: {size} is out of all bounds")
        schedule = _C.PipelineSchedule.compute_order(kind, stages, ranks, microbatches)
        shifted = kind == "shifted"
        if flags := _flags(shifted if recompute is None else recompute, stages):
            schedule = schedule.with_recompute(flags)
        if shifted:
            schedule = schedule.last_without_recompute()
        if communication:
            schedule = schedule.with_communication(_edges(edges, stages), receives_ahead)
        if shifted if pre_recompute is None else pre_recompute:
            schedule = schedule.pre_recompute()
        return Schedule(schedule.with_reduction() if reduction else schedule)

    @staticmethod
    def from_csv(path: str | Path) -> Schedule:
        """A schedule as torch.distributed.pipelining or `to_csv` writes it; what merak has not is in `notes`.

        Raises:
            ValueError: the file holds no schedule. Whether it is right is for `check` to say.
        """
        try:
            schedule, notes = _C.PipelineSchedule.from_csv(Path(path).read_bytes())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        return Schedule(schedule, notes)

    def to_csv(self, path: str | Path | None = None) -> str:
        """The text that `from_csv` reads; written to the file, if one is named."""
        text = self._schedule.to_csv()
        if path is not None:
            Path(path).write_text(text)
        return text

    def to_torch_csv(self, path: str | Path | None = None, *, communication: bool = False) -> str:
        """The text that torch's `_load_csv` reads, as "compute_only" or as "compute_comms".

        Raises:
            ValueError: torch has no such actions: it does not recompute, and sends to neighbouring stages only.
        """
        text = self._schedule.to_torch_csv(communication)
        if path is not None:
            Path(path).write_text(text)
        return text

    @property
    def n_microbatches(self) -> int:
        """How many micro-batches a batch is cut into."""
        return self._schedule.microbatches

    @property
    def n_stages(self) -> int:
        """How many stages the model is cut into."""
        return len(self._schedule.rank_of_stage)

    @property
    def n_ranks(self) -> int:
        """How many ranks there are."""
        return self._schedule.ranks

    @property
    def stage_to_rank(self) -> list[int]:
        """By stage: the rank where it lives."""
        return self._schedule.rank_of_stage

    @property
    def edges(self) -> list[tuple[int, int, bool]]:
        """Producer stage, consumer stage, whether a gradient comes back."""
        return self._schedule.edges

    @property
    def communicates(self) -> bool:
        """Whether it has SEND, RECV and WAIT."""
        return self._schedule.communicates

    @property
    def receives_as_sent(self) -> bool:
        """Whether between any two ranks messages are received in the order in which they are sent, so that a transport
        that matches by order, not by tags, can run it. True of all that `make` makes."""
        return self._schedule.receives_as_sent

    @property
    def in_flight(self) -> list[int]:
        """By stage: the most micro-batches at any time between F and B or W."""
        return self._schedule.in_flight

    def stages_of(self, rank: int) -> list[int]:
        """The stages that live there."""
        return [stage for stage, of in enumerate(self.stage_to_rank) if of == rank]

    def actions(self, rank: int) -> list[Action]:
        """What the rank does, in order.

        Raises:
            ValueError: there is no such rank.
        """
        return [Action(*action) for action in self._schedule.actions(rank)]

    def checkpointed(self, stage: int, microbatch: int) -> bool:
        """Whether that forward keeps only the stage's inputs, since an R comes later."""
        return self._schedule.checkpointed(stage, microbatch)

    def with_recompute(self, stages: bool | Collection[int] | Sequence[bool] = True) -> Schedule:
        """With R directly before the backwards of these stages: all, none, a set of them, or a bool for each."""
        flags = _flags(stages, self.n_stages)
        return Schedule(self._schedule.with_recompute(flags)) if flags else self

    def with_pre_recompute(self) -> Schedule:
        """With R before the wait for the gradient. Needs communication, else there are no waits."""
        return Schedule(self._schedule.pre_recompute())

    def with_delayed_weights(self) -> Schedule:
        """With I, W in place of B. Comes before communication."""
        return Schedule(self._schedule.with_delayed_weights())

    def with_communication(
        self, edges: Iterable[Edge] | None = None, receives_ahead: int = _C.RECEIVES_AHEAD
    ) -> Schedule:
        """With SEND, RECV and WAIT for the values of these edges (see `make`) and their gradients."""
        return Schedule(self._schedule.with_communication(_edges(edges, self.n_stages), receives_ahead))

    def with_reduction(self) -> Schedule:
        """With REDUCE_GRAD after each stage's last backward."""
        return Schedule(self._schedule.with_reduction())

    def first_microbatches(self, microbatches: int) -> Schedule:
        """The same order for a batch of fewer micro-batches.

        Raises:
            ValueError: there are not so many.
        """
        return Schedule(self._schedule.first_microbatches(microbatches), self.notes)

    def problems(self, most: int = 10) -> list[str]:
        """What is wrong with it: missing, doubled, in the wrong order, unmatched, or a deadlock."""
        return self._schedule.problems(most)

    def check(self) -> None:
        """Raises ValueError with what `problems` says, if there is any."""
        if problems := self.problems():
            raise ValueError("\n".join(problems))

    def simulate(self, costs: Costs | None = None) -> Simulation:
        """How long it takes, and what it keeps alive.

        Args:
            costs: by default a forward takes 1, a backward 2, messages nothing.
        Raises:
            ValueError: the schedule or the costs are wrong.
        """
        from merak.pipeline.simulation import Costs, Simulation

        return Simulation.of(self, costs or Costs())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and bool(self._schedule == other._schedule)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Schedule({self.n_stages} stages, {self.n_ranks} ranks, {self.n_microbatches} microbatches)"


def _flags(stages: bool | Collection[int] | Sequence[bool], n_stages: int) -> list[bool]:
    """Empty for none."""
    if isinstance(stages, bool):
        return [True] * n_stages if stages else []
    if all(isinstance(one, bool) for one in stages) and not isinstance(stages, set | frozenset):
        return [bool(one) for one in stages]
    if unknown := [stage for stage in stages if isinstance(stage, bool) or not 0 <= stage < n_stages]:
        raise ValueError(f"recompute: {unknown} are no stages of {n_stages}; give stages, or a bool for each stage")
    return [stage in stages for stage in range(n_stages)]


def _edges(edges: Iterable[Edge] | None, n_stages: int) -> list[tuple[int, int, bool]]:
    chain: Iterable[Edge] = ((stage, stage + 1) for stage in range(n_stages - 1))
    return [(edge[0], edge[1], edge[2] if len(edge) == 3 else True) for edge in (chain if edges is None else edges)]
