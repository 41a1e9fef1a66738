"""What remains of a run: `losses.json` and the picture `loss.png`, written by rank 0 when the loop ends."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from merak import _extras

from .history import History, Point
from .world import World


@dataclass(frozen=True)
class Session:
    """What this start of the job did; a resumed run has several.

    `seconds` are of the training loop, validation and checkpoints included. `cpu_seconds` are what all ranks together
    spent in it on the processor, user and system, so they mean the same on a busy machine. `bytes_sent` is of all ranks
    together, null where the backend does not count; of a pipeline they are the values between stages and their
    gradients too. `ring_bytes` is what data parallelism alone sends over as many ranks, by formula: ring all-reduces of
    2 (ranks - 1) float32 gradients a step. The two can be compared for `ddp`; a pipeline may send less or more.
    """

    first_step: int
    last_step: int
    seconds: float
    cpu_seconds: float
    tokens_per_second: float
    bytes_sent: int | None
    ring_bytes: int


class Stopwatch:
    """Measures a session; both methods are collective."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._start = self._now()

    def stop(self, first: int, last: int, tokens_per_step: int, parameters: int) -> Session:
        """The session that began when the stopwatch was made."""
        seconds, cpu, sent = (now - start for now, start in zip(self._now(), self._start, strict=True))
        cpu, sent = self._world.sum([cpu, sent])
        return Session(
            first_step=first + 1,
            last_step=last,
            seconds=seconds,
            cpu_seconds=cpu,
            tokens_per_second=(last - first) * tokens_per_step / seconds,
            bytes_sent=None if math.isnan(sent) else int(sent),
            ring_bytes=(last - first) * 2 * (self._world.size - 1) * 4 * parameters,
        )

    def _now(self) -> tuple[float, float, float]:
        sent = self._world.bytes_sent()
        return time.perf_counter(), time.process_time(), math.nan if sent is None else float(sent)


def write_losses(
    path: Path, run: dict[str, Any], world: World, session: Session, history: History, **more: Any
) -> None:
    """Writes the run, this session, every loss so far and what else there is, as JSON."""
    content = {
        "run": run,
        "backend": world.backend,
        "ranks": world.size,
        "session": asdict(session),
        "train": [{"step": step, "loss": loss} for step, loss in history.train()],
        "validation": [{"step": step, "loss": loss} for step, loss in history.validation()],
        **more,
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def draw_losses(path: Path, history: History, vocabulary: int, title: str) -> None:
    """Draws the loss curve as a PNG; a dotted line marks the loss of guessing evenly among the tokens."""
    _extras.require("matplotlib", extra="viz").use("Agg")
    plt = _extras.require("matplotlib.pyplot", extra="viz")
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    train = history.train()
    axes.plot(*_columns(train), color="tab:blue", alpha=0.3, linewidth=1, label="training, each step")
    axes.plot(*_columns(_smooth(train)), color="tab:blue", label="training, running mean")
    axes.plot(*_columns(history.validation()), "o-", color="tab:orange", label="validation")
    axes.axhline(math.log(vocabulary), color="gray", linestyle=":", label=f"guessing, ln {vocabulary}")
    axes.set(xlabel="step", ylabel="loss, nats a token", title=title)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _columns(points: list[Point]) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [loss for _, loss in points]


def _smooth(points: list[Point], keep: float = 0.9) -> list[Point]:
    """The running mean that forgets a tenth a step, without the usual pull towards its starting value."""
    smoothed, total, weight = [], 0.0, 0.0
    for step, loss in points:
        total = keep * total + (1 - keep) * loss
        weight = keep * weight + (1 - keep)
        smoothed.append((step, total / weight))
    return smoothed
