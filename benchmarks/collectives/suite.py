"""Which measurements a run makes: collectives, sizes and repetitions, as data that travels to the ranks as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from .bounds import FORMULAS

KIB, MIB = 1024, 1024 * 1024
SMALL = 64 * KIB
PAIRS_A_ROUND = 5
ALL_SIZES = [KIB * 4**power for power in range(9)]


@dataclass(frozen=True)
class Batch:
    """Measurements that take turns: every round repeats each of them `repetitions` times.

    A short message takes less time than the moods of a machine last (which core a thread was put on, what another
    process does), so its repetitions in a row resemble each other more than they resemble those of a minute later.
    Many rounds spread them over that minute, and `statistics.ratio_interval` draws whole rounds.
    """

    measurements: tuple[tuple[str, int], ...]
    rounds: int
    repetitions: int


@dataclass(frozen=True)
class Suite:
    """One run's measurements.

    Attributes:
        collectives: names, keys of `bounds.FORMULAS`.
        sizes: V in bytes, see `bounds`; multiples of 4. A barrier is measured once, with V = 0.
        backends: names of torch.distributed backends, measured side by side. Ratios are against the last.
        pairs: repetitions of messages up to 64 KiB.
        repeats: repetitions of 64 MiB; shorter messages get more.
        interface: network interface whose bytes are counted, or None.
        realtime: whether the ranks run before the machine's other programs while they are measured, see `priority`.
    """

    collectives: tuple[str, ...] = tuple(FORMULAS)
    sizes: tuple[int, ...] = tuple(ALL_SIZES)
    backends: tuple[str, ...] = ("merak", "gloo")
    pairs: int = 200
    repeats: int = 5
    interface: str | None = None
    realtime: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.collectives if name not in FORMULAS]
        if unknown:
            raise ValueError(f"no collective is called {unknown[0]!r}; there are {', '.join(FORMULAS)}")
        odd = [size for size in self.sizes if size % 4 or size <= 0]
        if odd:
            raise ValueError(f"sizes are positive multiples of 4 bytes (float32), not {odd[0]}")

    def batches(self) -> list[Batch]:
        """What to measure, in order: everything up to 64 KiB in turns, then each longer message by itself."""
        data = [name for name in self.collectives if name != "barrier"]
        short = [("barrier", 0)] if "barrier" in self.collectives else []
        short += [(name, size) for size in sorted(self.sizes) if size <= SMALL for name in data]
        long = [(name, size) for size in sorted(self.sizes) if size > SMALL for name in data]
        batches = [Batch((measurement,), 1, self._repetitions(measurement[1])) for measurement in long]
        return ([Batch(tuple(short), -(-self.pairs // PAIRS_A_ROUND), PAIRS_A_ROUND)] if short else []) + batches

    def _repetitions(self, size: int) -> int:
        return self.repeats if size > 4 * MIB else 4 * self.repeats

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Suite:
        fields: dict[str, Any] = json.loads(text)
        fields |= {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        return cls(**fields)
