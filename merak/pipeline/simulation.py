"""What a schedule costs: how long it takes, where ranks idle, what they keep in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from merak import _C

if TYPE_CHECKING:
    from merak.pipeline.schedule import Action, Schedule

OfStages = float | Sequence[float]
"""The same for all stages, or one for each."""
OfEdges = float | Mapping[tuple[int, int], float]
"""The same for all edges, or by producer and consumer; 0 for those that are not named."""


@dataclass(frozen=True)
class Costs:
    """Seconds and bytes, in any units. What is not said follows from the rest.

    Attributes:
        forward, backward: seconds of F and B; backward is by default twice the forward.
        backward_input, backward_weight: of I and W; by default half of B each.
        recompute: of R; by default that of F.
        reduction: of REDUCE_GRAD.
        message, gradient_message: seconds of a value and of its gradient on the wire; the latter by default the same.
        latency: until what left the wire has arrived.
        weights: bytes of a stage that are always there.
        activation: bytes that a micro-batch's forward keeps.
        checkpoint: bytes that it keeps if it will be recomputed.
        message_bytes: of a receive's buffer.
        blocking: ranks wait for what they send.
        buffered: a message leaves before its receive is posted.
        shared_links: a rank has one link for all others, not one for each.
    """

    forward: OfStages = 1.0
    backward: OfStages | None = None
    backward_input: OfStages | None = None
    backward_weight: OfStages | None = None
    recompute: OfStages | None = None
    reduction: OfStages = 0.0
    message: OfEdges = 0.0
    gradient_message: OfEdges | None = None
    latency: OfEdges = 0.0
    weights: OfStages = 0.0
    activation: OfStages = 1.0
    checkpoint: OfStages = 0.0
    message_bytes: OfEdges = 0.0
    blocking: bool = False
    buffered: bool = False
    shared_links: bool = False

    def of_stages(self, stages: int) -> list[tuple[float, ...]]:
        """By stage: the seconds of F, B, I, W, R and REDUCE_GRAD, the bytes of weights, activation, checkpoint."""
        forward = _each(self.forward, stages, "forward")
        backward = _each(self.backward, stages, "backward", [2 * seconds for seconds in forward])
        half = [seconds / 2 for seconds in backward]
        rows = (
            forward,
            backward,
            _each(self.backward_input, stages, "backward_input", half),
            _each(self.backward_weight, stages, "backward_weight", half),
            _each(self.recompute, stages, "recompute", forward),
            _each(self.reduction, stages, "reduction"),
            _each(self.weights, stages, "weights"),
            _each(self.activation, stages, "activation"),
            _each(self.checkpoint, stages, "checkpoint"),
        )
        return list(zip(*rows, strict=True))

    def of_edges(self, edges: Sequence[tuple[int, int, bool]]) -> list[tuple[float, ...]]:
        """By edge: seconds of a value and of a gradient, latency, bytes."""
        gradient = self.message if self.gradient_message is None else self.gradient_message
        kinds = (self.message, gradient, self.latency, self.message_bytes)
        return [
            tuple(float(kind.get(edge[:2], 0) if isinstance(kind, Mapping) else kind) for kind in kinds)
            for edge in edges
        ]


class ActionSpan(NamedTuple):
    """When a rank did something."""

    action: Action
    start: float
    end: float


class MessageSpan(NamedTuple):
    """A value ("F") on its way from producer to consumer, or its gradient ("B") on the way back: when it was sent, when
    it got onto the wire, and when it arrived."""

    kind: str
    producer: int
    consumer: int
    microbatch: int
    sent: float
    start: float
    end: float


class Peak(NamedTuple):
    """The most that is alive at a time: bytes of all together, and of each kind how many."""

    bytes: float
    activations: int
    checkpoints: int
    receives: int


@dataclass(frozen=True)
class Simulation:
    """A schedule, as it ran.

    Attributes:
        schedule: with communication, even where that which was simulated had none.
        seconds: from begin to end.
        bubble: the share of all ranks' time in which they do not compute.
        bubbles: the same of each rank.
        peaks: of each rank.
        stage_peaks: of each stage, without what its rank's other stages have.
    """

    schedule: Schedule
    seconds: float
    bubble: float
    bubbles: list[float]
    peaks: list[Peak]
    stage_peaks: list[Peak]
    _simulation: _C.PipelineSimulation

    @staticmethod
    def of(schedule: Schedule, costs: Costs) -> Simulation:
        """See `Schedule.simulate`."""
        of_stages, of_edges = costs.of_stages(schedule.n_stages), costs.of_edges(schedule.edges)
        ran = schedule._schedule.simulate(of_stages, of_edges, costs.blocking, costs.buffered, costs.shared_links)
        return Simulation(
            schedule=type(schedule)(ran.schedule, schedule.notes),
            seconds=ran.seconds,
            bubble=ran.bubble(),
            bubbles=[1 - busy / ran.seconds if ran.seconds else 0.0 for busy in ran.busy_s],
            peaks=[Peak(*peak) for peak in ran.peaks_of_ranks()],
            stage_peaks=[Peak(*peak) for peak in ran.peaks_of_stages()],
            _simulation=ran,
        )

    def spans(self, rank: int) -> list[ActionSpan]:
        """What the rank did when. A WAIT takes until what it waits for has arrived."""
        actions, spans = self.schedule.actions(rank), self._simulation.spans(rank)
        return [ActionSpan(action, *span) for action, span in zip(actions, spans, strict=True)]

    def messages(self) -> list[MessageSpan]:
        """What crossed ranks, in the order of arrival."""
        return [MessageSpan(*message) for message in self._simulation.messages()]

    def chart(self, width: int = 120) -> str:
        """A row a rank, time from left to right."""
        from merak.pipeline.chart import chart

        return chart(self, width)

    def picture(self, path: str | Path) -> None:
        """Draws it there: .png, .svg, .pdf.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from merak.pipeline.picture import draw

        draw(self, Path(path))

    def trace(self, path: str | Path) -> None:
        """Writes it there as a Chrome trace, which https://ui.perfetto.dev shows."""
        from merak.pipeline.trace import write

        write(self, Path(path))


def _each(value: OfStages | None, stages: int, name: str, otherwise: list[float] | None = None) -> list[float]:
    if value is None:
        return list(otherwise or [])
    if isinstance(value, int | float):
        return [float(value)] * stages
    if len(value) != stages:
        raise ValueError(f"{name}: {len(value)} values for {stages} stages")
    return [float(one) for one in value]
