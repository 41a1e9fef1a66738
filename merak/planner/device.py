"""What a device can do: how fast it computes, how fast its memory is, how much of it there is.

The *reached* speed is what large products get, and what plans reckon with. The *peak* is that of the data sheet, and
*efficiency* the share of it that is reached. Shipped devices have peaks from data sheets and efficiencies that are
assumptions; those that were calibrated have measured speeds and no peak.

A device in JSON (`devices/` has the shipped ones); each speed is a number, or a peak and an efficiency:

    {"name": "A100-40GB", "flops": {"bf16": {"peak": 312e12, "efficiency": 0.7}, "fp32": 15.6e12},
     "memory_bytes": 40e9, "memory_bytes_per_s": {"peak": 1.555e12, "efficiency": 0.85}, "overhead_s": 5e-6,
     "source": "where the numbers are from"}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import torch

from merak.planner.checks import (
    WrongFieldError,
    check_fields,
    check_mapping,
    check_number,
    check_text,
    check_whole,
    within,
)

DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""By the name that devices have for it."""
_MEMORY = "memory_bytes_per_s"
_FIELDS = ("name", "flops", "memory_bytes", _MEMORY, "overhead_s", "source")
_EXPECTED_SPEED = "what is reached per second"


@dataclass(frozen=True)
class Device:
    """One kind of device.

    Attributes:
        name: what tables and files call it.
        flops: FLOP/s that large products reach, by dtype ("fp64", "fp32", "bf16", "fp16").
        memory_bytes: how much memory it has.
        memory_bytes_per_s: how fast that is read and written, both together.
        overhead_s: the least that one operation takes.
        source: where the numbers are from.
        of_peak: peak and efficiency, whose product is the speed, of some speeds, by dtype or "memory_bytes_per_s".
    """

    name: str
    flops: Mapping[str, float] = field(hash=False)
    memory_bytes: int
    memory_bytes_per_s: float
    overhead_s: float
    source: str
    of_peak: Mapping[str, tuple[float, float]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check_text("name", self.name, "what it is called")
        check_mapping("flops", self.flops, f"FLOP/s by dtype ({', '.join(DTYPES)})")
        if not self.flops:
            raise WrongFieldError("flops", "is empty; expected FLOP/s of one dtype at least")
        for dtype, speed in self.flops.items():
            if dtype not in DTYPES:
                raise WrongFieldError(f"flops.{dtype}", f"is of an unknown dtype; expected one of {', '.join(DTYPES)}")
            check_number(f"flops.{dtype}", speed, "FLOP/s of large products")
        set_ = object.__setattr__
        set_(self, "flops", {dtype: float(speed) for dtype, speed in self.flops.items()})
        set_(self, "memory_bytes", check_whole("memory_bytes", self.memory_bytes, "bytes"))
        set_(self, _MEMORY, check_number(_MEMORY, self.memory_bytes_per_s, "bytes per second"))
        set_(self, "overhead_s", check_number("overhead_s", self.overhead_s, "seconds of one operation", 0))
        check_text("source", self.source, "where the numbers are from")
        set_(self, "of_peak", {name: self._checked_peak(name, pair) for name, pair in self.of_peak.items()})

    @property
    def is_cpu(self) -> bool:
        """Whether it is a CPU, or a core of one: these are called so."""
        return self.name.startswith("CPU")

    def flops_of(self, dtype: torch.dtype) -> float:
        """FLOP/s that large products of this dtype reach.

        Raises:
            ValueError: nobody said.
        """
        for name, known in DTYPES.items():
            if known is dtype and name in self.flops:
                return self.flops[name]
        raise ValueError(
            f"device {self.name!r} has no FLOP/s of {dtype}; it has those of {', '.join(self.flops)}: compute in one "
            "of these, or add it to `flops` in the file of the cluster"
        )

    @classmethod
    def named(cls, name: str) -> Device:
        """A shipped device.

        Raises:
            ValueError: there is none of this name.
        """
        devices = _shipped()
        if name not in devices:
            raise ValueError(f"no device is called {name!r}; expected one of {', '.join(devices)}")
        return devices[name]

    @staticmethod
    def names() -> tuple[str, ...]:
        """Of all shipped devices."""
        return tuple(_shipped())

    @classmethod
    def from_json(cls, facts: Any) -> Device:
        """What `to_json` has given, or the name of a shipped device.

        Raises:
            ValueError: it is something else; the text names the field.
        """
        if isinstance(facts, str):
            try:
                return cls.named(facts)
            except ValueError as error:
                raise WrongFieldError("", f"is {facts!r}: {error}, or a device's fields") from error
        facts = check_fields(facts, _FIELDS)
        given = {**check_mapping("flops", facts["flops"], "FLOP/s by dtype"), _MEMORY: facts[_MEMORY]}
        of_peak, reached = {}, {}
        for name, speed in given.items():
            if isinstance(speed, Mapping):
                with within(name if name == _MEMORY else f"flops.{name}"):
                    pair = check_fields(speed, ("peak", "efficiency"))
                    of_peak[name] = _checked_pair(pair["peak"], pair["efficiency"])
                    speed = of_peak[name][0] * of_peak[name][1]
            reached[name] = speed
        memory = reached.pop(_MEMORY)
        return cls(facts["name"], reached, facts["memory_bytes"], memory, facts["overhead_s"], facts["source"], of_peak)

    def to_json(self) -> Any:
        """The name of a shipped device; of others all fields."""
        if _shipped().get(self.name) == self:
            return self.name
        speeds: dict[str, Any] = {**self.flops, _MEMORY: self.memory_bytes_per_s}
        for name, (peak, efficiency) in self.of_peak.items():
            speeds[name] = {"peak": peak, "efficiency": efficiency}
        memory = speeds.pop(_MEMORY)
        values = (self.name, speeds, self.memory_bytes, memory, self.overhead_s, self.source)
        return dict(zip(_FIELDS, values, strict=True))

    def _checked_peak(self, name: str, pair: tuple[float, float]) -> tuple[float, float]:
        with within(f"of_peak.{name}"):
            peak, efficiency = _checked_pair(*pair)
        reached = self.memory_bytes_per_s if name == _MEMORY else self.flops.get(name)
        if reached != peak * efficiency:
            raise WrongFieldError(f"of_peak.{name}", f"is {pair}; their product must be {reached}, the speed reached")
        return peak, efficiency


def _checked_pair(peak: Any, efficiency: Any) -> tuple[float, float]:
    peak = check_number("peak", peak, _EXPECTED_SPEED)
    if check_number("efficiency", efficiency, "the share of the peak that is reached") > 1:
        raise WrongFieldError("efficiency", f"is {efficiency!r}; expected a share of the peak, above 0 and at most 1")
    return peak, float(efficiency)


@cache
def _shipped() -> dict[str, Device]:
    folder = resources.files("merak.planner") / "devices"
    paths = sorted((path for path in folder.iterdir() if path.name.endswith(".json")), key=lambda path: path.name)
    devices = [Device.from_json(json.loads(path.read_text())) for path in paths]
    return {device.name: device for device in devices}
