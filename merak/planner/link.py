"""What a link carries, as numbers or as people say it: "NVLink", "PCIe4", "100Gbit/s", "1Gbit/s 90us".

A message of V bytes takes `latency_s + V / bytes_per_s`, at the same time in each direction. *alpha* is what a step of
a collective costs besides its bytes, *beta* the seconds of each byte that crosses the link; by default `latency_s` and
`1 / bytes_per_s`. Where a collective was measured, it has an alpha and a beta of its own.

What texts mean. A rate in bits is that of a wire, of which TCP leaves 1,448 bytes of 1,514 for payload; one in bytes is
payload. A latency may follow it. Without one it is, on wires below 10 Gbit/s, 90 us: what a message takes over merak's
TCP (csrc/collectives/costs.h: a + 2m); from 10 Gbit/s on 20 us are assumed, over NCCL. Of the names below the peaks are
those of the data sheets, in each direction, and the efficiency of 0.8, for PCIe 0.75, is an assumption, as are their
latencies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from merak.planner.checks import WrongFieldError, check_fields, check_mapping, check_number, within

COLLECTIVES = ("all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast", "send")
_MEASURED = ("alpha_s", "beta_s_per_byte")
_PAYLOAD = 1448 / 1514
_UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_TIMES = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_NUMBER = r"\d+(?:\.\d+)?"
_TEXT = re.compile(
    rf"(?:(?P<name>[A-Za-z]\w*)|(?P<rate>{_NUMBER})\s*(?P<k>[kMGT]?)(?P<unit>bit|B)/s)"
    rf"(?:,?\s+(?P<time>{_NUMBER})\s*(?P<s>s|ms|us|ns))?"
)
_SLOW_WIRE_LATENCY_S, _FAST_WIRE_LATENCY_S, _FAST_WIRE_BITS = 90e-6, 20e-6, 10e9
_NAMED = {
    "NVLink": (0.8 * 300e9, 5e-6),  # the third
    "NVLink2": (0.8 * 150e9, 5e-6),  # V100
    "NVLink3": (0.8 * 300e9, 5e-6),  # A100
    "NVLink4": (0.8 * 450e9, 5e-6),  # H100
    "PCIe3": (0.75 * 15.75e9, 10e-6),  # 16 lanes
    "PCIe4": (0.75 * 31.5e9, 10e-6),
    "PCIe5": (0.75 * 63e9, 10e-6),
    "loopback": (1.5e9, 60e-6),  # merak's TCP within a host, csrc/collectives/costs.h
}


@dataclass(frozen=True)
class Link:
    """A link, in each of its directions.

    Attributes:
        bytes_per_s: payload that it carries.
        latency_s: what a message of no bytes takes.
        collectives: alpha (seconds a step) and beta (seconds a byte that crosses it), by collective, where these were
            measured.
    """

    bytes_per_s: float
    latency_s: float
    collectives: Mapping[str, tuple[float, float]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "bytes_per_s", check_number("bytes_per_s", self.bytes_per_s, "bytes per second"))
        set_(self, "latency_s", check_number("latency_s", self.latency_s, "seconds", 0))
        given = check_mapping("collectives", self.collectives, "alpha and beta by collective")
        set_(self, "collectives", {kind: _checked(kind, pair) for kind, pair in given.items()})

    def alpha(self, kind: str) -> float:
        """Seconds that a step of this collective costs, besides its bytes."""
        return self.collectives[kind][0] if kind in self.collectives else self.latency_s

    def beta(self, kind: str) -> float:
        """Seconds that a byte of this collective takes on the link."""
        return self.collectives[kind][1] if kind in self.collectives else 1 / self.bytes_per_s

    @classmethod
    def of(cls, link: Link | str) -> Link:
        """Of a text, such as "NVLink4" or "25Gbit/s 30us"; a link stays what it is.

        Raises:
            ValueError: the text means nothing.
        """
        if isinstance(link, Link):
            return link
        said = _TEXT.fullmatch(link.strip())
        known = said and (said["name"] in _NAMED if said["name"] else float(said["rate"]) > 0)
        if not said or not known:
            raise ValueError(
                f"{link!r} is no link; expected one of {', '.join(_NAMED)}, or a rate in bit/s or B/s, as in "
                '"100Gbit/s" or "12GB/s", and perhaps a latency behind it, as in "100Gbit/s 20us"'
            )
        made = cls(*_NAMED[said["name"]]) if said["name"] else _of_rate(float(said["rate"]) * _UNITS[said["k"]], said)
        return cls(made.bytes_per_s, float(said["time"]) * _TIMES[said["s"]]) if said["time"] else made

    @classmethod
    def from_json(cls, facts: Any) -> Link:
        """What `to_json` has given, or a text.

        Raises:
            ValueError: it is something else; the text names the field.
        """
        if isinstance(facts, str):
            try:
                return cls.of(facts)
            except ValueError as error:
                raise WrongFieldError("", f"is not understood: {error}, or a link's fields") from error
        facts = check_fields(facts, ("bytes_per_s", "latency_s"), ("collectives",))
        measured = {}
        for kind, pair in check_mapping("collectives", facts.get("collectives", {}), "what was measured").items():
            with within(f"collectives.{kind}"):
                measured[kind] = tuple(check_fields(pair, _MEASURED)[name] for name in _MEASURED)
        return cls(facts["bytes_per_s"], facts["latency_s"], measured)

    def to_json(self) -> dict[str, Any]:
        """All fields, as numbers."""
        facts: dict[str, Any] = {"bytes_per_s": self.bytes_per_s, "latency_s": self.latency_s}
        if self.collectives:
            facts["collectives"] = {
                kind: dict(zip(_MEASURED, pair, strict=True)) for kind, pair in self.collectives.items()
            }
        return facts


def _of_rate(rate: float, said: re.Match[str]) -> Link:
    in_bits = said["unit"] == "bit"
    fast = rate * (1 if in_bits else 8) >= _FAST_WIRE_BITS
    return Link(rate / 8 * _PAYLOAD if in_bits else rate, _FAST_WIRE_LATENCY_S if fast else _SLOW_WIRE_LATENCY_S)


def _checked(kind: str, pair: tuple[float, float]) -> tuple[float, float]:
    if kind not in COLLECTIVES:
        raise WrongFieldError(f"collectives.{kind}", f"is no collective; expected one of {', '.join(COLLECTIVES)}")
    with within(f"collectives.{kind}"):
        alpha, beta = pair
        return check_number(_MEASURED[0], alpha, "seconds a step", 0), check_number(
            _MEASURED[1], beta, "seconds a byte"
        )
