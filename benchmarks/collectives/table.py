"""The records as tables for people: one a cluster, and one of the ratio to the bound as hosts are added."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from merak._extras import require

from .record import Record
from .suite import SMALL

if TYPE_CHECKING:
    from rich.table import Table

EMULATED = "Emulated: the hosts are network namespaces of one machine with {cores} cores and share them."


def emulated_note() -> str:
    """The sentence that stands with every result."""
    return EMULATED.format(cores=os.cpu_count())


def cluster_table(records: Sequence[Record], title: str) -> Table:
    """Times, ratios to the bound and to the peer, and bytes that left the hosts; one row a collective and size."""
    table: Table = require("rich.table", extra="viz").Table(title=title, caption=emulated_note())
    rows = _measurements(records)
    backends = [record.backend for record in rows[0]]
    table.add_column("collective", no_wrap=True)
    headings = ["bytes", "bound ms", *(f"{name} ms" for name in backends), *(f"{name}/bound" for name in backends)]
    headings += [f"{'/'.join(backends)} [95 %]", "bytes out / formula"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row))
    return table


def growth_table(records: Sequence[Record], size: int) -> Table:
    """Ratio to the bound of messages of `size` bytes; a column a host count, a row a collective and backend."""
    table: Table = require("rich.table", extra="viz").Table(
        title=f"time / bound by number of hosts, {format_size(size)}", caption=emulated_note()
    )
    chosen = {(r.name, r.backend, r.hosts): r.ratio for r in records if r.bytes == size}
    counts = sorted({hosts for _, _, hosts in chosen})
    for heading in ["collective", "backend", *map(str, counts)]:
        table.add_column(heading, justify="right" if heading.isdigit() else "left")
    for name, backend in dict.fromkeys((name, backend) for name, backend, _ in chosen):
        table.add_row(name, backend, *(_number(chosen.get((name, backend, hosts)), ".3f") for hosts in counts))
    return table


def format_size(size: int) -> str:
    """Bytes in the largest binary unit that leaves a whole number."""
    for unit, factor in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size and size % factor == 0:
            return f"{size // factor} {unit}"
    return f"{size} B"


def _measurements(records: Sequence[Record]) -> list[list[Record]]:
    """Records grouped by what was measured; each group in the order of backends."""
    groups: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        groups.setdefault((record.name, record.bytes), []).append(record)
    return list(groups.values())


def _cells(row: Sequence[Record]) -> list[str]:
    first = row[0]
    against = "-"
    if first.peer_ratio is not None:
        against = f"{first.peer_ratio:.3f} [{first.peer_low:.3f}, {first.peer_high:.3f}]"
    return [
        first.name,
        format_size(first.bytes),
        f"{first.bound * 1e3:.3f}",
        *(f"{record.seconds * 1e3:.3f}" for record in row),
        *(_number(_bound_ratio(record), ".3f") for record in row),
        against,
        " ".join(_number(_excess(record), ".3f") for record in row),
    ]


def _bound_ratio(record: Record) -> float | None:
    # Shorter messages fit into the shaper's bucket and are not held back by it.
    return record.ratio if record.bytes > SMALL else None


def _excess(record: Record) -> float | None:
    # In shorter messages headers and acknowledgements count for more than data.
    if record.left is None or record.bytes <= SMALL:
        return None
    return sum(record.left) / record.left_bound if record.left_bound else None


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
