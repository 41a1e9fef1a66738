"""What is measured: pipelines of emulated devices, and the schedules that run on them.

A forward takes F, a backward 2 F, recomputing F, all stages of a rank together. `message` is what a value, or its
gradient, needs on the wire between two stages, in terms of F; in cases without it, values have 4 KiB.

- `slow boundaries`: every boundary is slow, c = 1.5 F. A simulation of events says that eager 1F1B should win 1.605
  over 1F1B whose messages are asynchronous.
- `recompute`: communication is free, every stage is recomputed (by torch.utils.checkpoint in torch's stages). Shifted,
  which recomputes while it would wait for the gradient, should win 44/38 = 1.158.
- `free`: communication is free and nothing is recomputed: what remains is what the schedules' runtimes add.
"""

from __future__ import annotations

from dataclasses import dataclass

from merak.pipeline.schedule import KINDS, Schedule
from merak.pipeline.simulation import Costs

RANKS = 4
TINY_BYTES = 4096
GPIPE, ONE_F_ONE_B, INTERLEAVED = "gpipe", "1f1b", "interleaved"
TORCH_ORDERS = (GPIPE, ONE_F_ONE_B, INTERLEAVED)
"""Those that torch has a schedule for, by merak's names."""
BACKENDS = ("gloo", "merak")
RUNTIME = "torch-runtime"
"""Begins the names of ways in which torch's runtime of multi-stage schedules has merak's order."""


@dataclass(frozen=True)
class Case:
    """A pipeline.

    Attributes:
        microbatches: of a step.
        message: c / F.
        recompute: every stage's forward is.
        kinds: of merak's schedules, those measured by default.
        in_runtime: and those in torch's runtime.
    """

    microbatches: int
    message: float
    recompute: bool
    kinds: tuple[str, ...]
    in_runtime: tuple[str, ...] = ()

    def ways(self) -> tuple[str, ...]:
        """Those measured by default."""
        ours = tuple(merak_way(kind) for kind in self.kinds)
        names = [torch_way(order, backend) for order in TORCH_ORDERS for backend in BACKENDS]
        return (*ours, *names, *(runtime_way(kind, backend) for kind in self.in_runtime for backend in BACKENDS))

    def message_bytes(self, forward_s: float, goodput: float) -> int:
        """Of a value: whole fp32 numbers."""
        return 4 * round(self.message * forward_s * goodput / 4) or TINY_BYTES

    def schedule(self, kind: str, microbatches: int | None = None) -> Schedule:
        """merak's."""
        stages = RANKS * stages_per_rank(kind)
        # Shifted knows itself what to recompute: all stages but the last.
        recompute = None if self.recompute and kind == "shifted" else self.recompute
        count = microbatches or self.microbatches
        return Schedule.make(kind, stages=stages, ranks=RANKS, microbatches=count, recompute=recompute, reduction=False)

    def costs(self, kind: str, forward_s: float, goodput: float) -> Costs:
        """By which a schedule is simulated: full-duplex links between each two ranks, and nothing but bytes on them."""
        seconds = seconds_of(kind, forward_s)
        wire_s = self.message_bytes(forward_s, goodput) / goodput
        edges = {edge[:2]: wire_s for edge in self.schedule(kind, RANKS).edges}
        return Costs(
            forward=seconds["F"],
            backward=seconds["B"],
            backward_input=seconds["I"],
            backward_weight=seconds["W"],
            recompute=seconds["R"],
            message=edges,
        )


CASES = {
    "slow boundaries": Case(32, 1.5, False, (GPIPE, ONE_F_ONE_B, INTERLEAVED, "eager"), (ONE_F_ONE_B, "eager")),
    "recompute": Case(8, 0, True, (GPIPE, ONE_F_ONE_B, INTERLEAVED, "shifted")),
    "free": Case(8, 0, False, (GPIPE, ONE_F_ONE_B, INTERLEAVED, "eager", "zero-bubble")),
}


def stages_per_rank(kind: str) -> int:
    """How many stages the model is cut into, a rank."""
    return 2 if kind in (INTERLEAVED, "looped-bfs", "zbv") else 1


def seconds_of(kind: str, forward_s: float) -> dict[str, float]:
    """By action: how long it keeps a device busy, in one of its rank's stages."""
    share = forward_s / stages_per_rank(kind)
    return {"F": share, "B": 2 * share, "I": share, "W": share, "R": share}


def merak_way(kind: str) -> str:
    return f"merak {kind}"


def torch_way(order: str, backend: str) -> str:
    return f"torch {order} ({backend})"


def runtime_way(kind: str, backend: str) -> str:
    return f"{RUNTIME} {kind} ({backend})"


def all_ways() -> list[str]:
    """Every name of a way."""
    peers = [torch_way(order, backend) for order in TORCH_ORDERS for backend in BACKENDS]
    peers += [runtime_way(kind, backend) for kind in KINDS for backend in BACKENDS]
    return [merak_way(kind) for kind in KINDS] + peers


def kind_of(way: str) -> str:
    """The schedule's, in merak's names."""
    return way.split()[1]


def simulated_kind(way: str) -> str | None:
    """The kind, where a simulation says how long the way should take."""
    return kind_of(way) if way.startswith("merak") else None
