"""What a run of ``merak bench pipeline`` measures: the command tells it to the ranks, as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Suite:
    """What to measure.

    Attributes:
        ways: by case.
        forward_s: F.
        goodput: bytes/s of payload of a wire.
    """

    ways: dict[str, tuple[str, ...]]
    forward_s: float
    goodput: float
    repetitions: int
    interface: str
    realtime: bool

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Suite:
        fields = json.loads(text)
        return cls(ways={case: tuple(ways) for case, ways in fields.pop("ways").items()}, **fields)
