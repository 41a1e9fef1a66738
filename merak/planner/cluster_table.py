"""The text of `Cluster.explain`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from merak.planner.device import DTYPES, Device
from merak.planner.link import Link
from merak.resharding.explaining import count_text, size_text

if TYPE_CHECKING:
    from merak.planner.cluster import Cluster


def table(cluster: Cluster) -> str:
    """See `Cluster.explain`."""
    return "\n".join(_lines(cluster))


def _lines(cluster: Cluster) -> Iterator[str]:
    yield f"{cluster.name}: {count_text(cluster.devices, 'device')} on {count_text(cluster.hosts, 'host')}"
    yield ""
    dtypes = [name for name in DTYPES if any(name in group.device.flops for group in cluster.groups)]
    rows = [("devices", "hosts", "device", "memory", *(f"{name} FLOP/s" for name in dtypes), "memory/s", "operation")]
    first, host = 0, 0
    for group in cluster.groups:
        memory = cluster.memory_bytes(first)
        rows.append(
            (
                _range(first, group.devices),
                f"{_range(host, group.hosts)} x {group.devices_per_host}",
                group.device.name,
                size_text(memory),
                *(_speed(group.device, name) for name in dtypes),
                _speed(group.device, "memory_bytes_per_s"),
                _time(group.device.overhead_s),
            )
        )
        first, host = first + group.devices, host + group.hosts
    yield from columns(rows)
    if any(group.device.of_peak for group in cluster.groups):
        yield "In brackets: the share of the data sheet's peak that is assumed to be reached."
    yield ""
    yield from columns(
        [
            ("link", "collective", "a step", "bytes"),
            *(row for name, link in _links(cluster) for row in _link(name, link)),
        ]
    )


def _links(cluster: Cluster) -> Iterator[tuple[str, Link]]:
    host = 0
    for group in cluster.groups:
        if group.devices_per_host > 1:
            yield f"inside hosts {_range(host, group.hosts)}", group.inside
        host += group.hosts
    if cluster.hosts > 1:
        yield "between hosts", cluster.between


def _link(name: str, link: Link) -> Iterator[tuple[str, ...]]:
    others = "any other" if link.collectives else "any"
    yield name, others, _time(link.latency_s), f"{size_text(link.bytes_per_s)}/s"
    for kind, (alpha, beta) in link.collectives.items():
        yield "", kind, _time(alpha), f"{size_text(1 / beta)}/s"


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows of texts under each other, the first column to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (f"{cell:{'<' if column == 0 else '>'}{widths[column]}}" for column, cell in enumerate(row))
        yield "  ".join(cells).rstrip()


def _range(first: int, count: int) -> str:
    return str(first) if count == 1 else f"{first}-{first + count - 1}"


def _speed(device: Device, name: str) -> str:
    speed = device.memory_bytes_per_s if name == "memory_bytes_per_s" else device.flops.get(name)
    if speed is None:
        return "-"
    text = f"{size_text(speed)}/s" if name == "memory_bytes_per_s" else _scaled(speed)
    return f"{text} ({device.of_peak[name][1]:.0%})" if name in device.of_peak else text


def _scaled(speed: float) -> str:
    """ "989.4 T"."""
    unit = "M"
    speed /= 1e6
    for larger in ("G", "T", "P"):
        if speed >= 1000:
            speed, unit = speed / 1000, larger
    return f"{speed:.1f} {unit}"


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us"
