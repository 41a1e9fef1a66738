"""Which way to split a table, from how often its rows are read.

Of a table with D columns of e bytes on n ranks, p(r) is the share of batches that read row r, k = sum of p(r) the rows
that a rank reads in a batch, K(s) those of them that rank s has where rows are split, and c(s) its columns where those
are. A step is a lookup and its gradient, which send the same bytes, one way and the other; a *slice* is what is copied
or added up of one row at a time (csrc/embedding/split.h). Of the busiest rank s:

    columns       bytes 2 k e max((n - 1) c(s), D - c(s))            slices 4 k n
    rows          bytes 2 D e max((n - 1) K(s), k - K(s))            slices 2 (n K(s) + k)
    with h hot    those of the other rows, and of the all-reduce, of h' = sum of p(r) over hot rows and
                  u = sum of 1 - (1 - p(r))^n:
                  bytes (h' + u) D e (n - 1) / n                     slices 2 (h' + u)

Seconds are bytes / bandwidth + slices * seconds_per_slice, and HOT_SECONDS where there are hot rows. Hot are those that
are read most, as many as is cheapest, of powers of two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from merak import _C
from merak.embedding.module import Split

BANDWIDTH = 119.6e6
"""Bytes a second, of a rank each way: 1 Gbit/s, less what frames take."""
SECONDS_PER_SLICE = 40e-9
"""Of short slices, on one core of the machine that measured docs/embedding.md."""
HOT_SECONDS = 2.5e-3
"""What telling hot rows from others, and one more all-reduce, takes there, whatever their number."""


@dataclasses.dataclass(frozen=True)
class Frequencies:
    """In how many of some batches each row of a table is read."""

    reads: torch.Tensor
    """int64, [rows]."""
    batches: int


@dataclasses.dataclass(frozen=True)
class Price:
    """What a step costs the busiest rank."""

    split: Split
    hot_rows: int
    bytes: float
    slices: float
    seconds: float

    @property
    def name(self) -> str:
        return f"{self.split}, {self.hot_rows} hot" if self.hot_rows else self.split


@dataclasses.dataclass(frozen=True)
class Choice:
    """How to split a table: `ShardedEmbedding(..., split=choice.split, hot=choice.hot)`. Printed, it says why: what
    each way costs, with the best number of hot rows, the cheapest first."""

    split: Split
    hot: torch.Tensor | None
    prices: tuple[Price, ...]
    """Of all that were considered, the cheapest first."""

    def __str__(self) -> str:
        best: dict[tuple[Split, bool], Price] = {}
        for price in self.prices:
            best.setdefault((price.split, price.hot_rows > 0), price)
        lines = [f"{'the busiest rank, a step':30}{'bytes':>14}{'slices':>12}{'ms':>9}"]
        for price in best.values():
            lines.append(f"{price.name:30}{price.bytes:14.0f}{price.slices:12.0f}{price.seconds * 1e3:9.2f}")
        return "\n".join(lines)


def frequencies(batches: Iterable[torch.Tensor], rows: int) -> Frequencies:
    """Counts in how many batches of ids, of any shape, each of so many rows is read.

    Raises:
        ValueError: there is no batch, or an id is none of the table's.
    """
    reads, count = torch.zeros(rows, dtype=torch.int64), 0
    for ids in batches:
        once = ids.unique().long()
        if len(once) and not (once[0] >= 0 and once[-1] < rows):
            raise ValueError(f"ids from {once[0]} to {once[-1]} are read of an embedding of {rows} rows.")
        reads[once] += 1
        count += 1
    if count == 0:
        raise ValueError("there is no batch to count.")
    return Frequencies(reads, count)


def auto(
    counted: Frequencies,
    columns: int,
    mesh: DeviceMesh | None = None,
    *,
    element_bytes: int = 4,
    bandwidth: float = BANDWIDTH,
    seconds_per_slice: float = SECONDS_PER_SLICE,
) -> Choice:
    """What `choose` says of the batches that all ranks counted together; so the same on all of them. All ranks call it
    together.

    Args:
        counted: of this rank's batches.
        mesh: of one dimension; default: all ranks.
        The others: as of `choose`.
    """
    group = None if mesh is None else mesh.get_group()
    total = torch.cat([counted.reads, torch.tensor([counted.batches])])
    dist.all_reduce(total, group=group)
    whole = Frequencies(total[:-1], int(total[-1]))
    return choose(whole, columns, dist.get_world_size(group), element_bytes, bandwidth, seconds_per_slice)


def choose(
    counted: Frequencies,
    columns: int,
    ranks: int,
    element_bytes: int = 4,
    bandwidth: float = BANDWIDTH,
    seconds_per_slice: float = SECONDS_PER_SLICE,
) -> Choice:
    """The cheapest way to split a table with so many columns, by the formulas above. Without communication.

    Args:
        bandwidth: bytes a second that a rank can send, and receive meanwhile.
        seconds_per_slice: of its work.

    Raises:
        ValueError: bandwidth is not above 0, or seconds_per_slice below 0.
    """
    if not (bandwidth > 0 and seconds_per_slice >= 0):
        raise ValueError("bandwidth has to be above 0, and seconds_per_slice not below.")
    order = counted.reads.sort(descending=True, stable=True).indices
    prices = [
        Price(split, hot, sent, slices, sent / bandwidth + slices * seconds_per_slice + (HOT_SECONDS if hot else 0))
        for split, hot, sent, slices in _ways(counted, order, columns, ranks, element_bytes)
    ]
    prices.sort(key=lambda price: price.seconds)
    best = prices[0]
    hot_rows = order[: best.hot_rows].sort().values if best.hot_rows else None
    return Choice(best.split, hot_rows, tuple(prices))


def _ways(
    counted: Frequencies, order: torch.Tensor, columns: int, ranks: int, element_bytes: int
) -> Iterator[tuple[Split, int, float, float]]:
    """Split, number of hot rows, bytes and slices. `order`: rows, the most read first."""
    rows, row_bytes = len(order), columns * element_bytes
    share = counted.reads.double() / counted.batches
    read = share.sum().item()
    cut = _C.TableSplit("columns", rows, columns, ranks)
    busiest = max(max((ranks - 1) * width, columns - width) for width in (_width(cut.columns(s)) for s in range(ranks)))
    yield "columns", 0, 2 * read * busiest * element_bytes, 4 * read * ranks
    for hot in _numbers_of_hot_rows(rows, ranks, int((counted.reads > 0).sum())):
        copied = share[order[:hot]]
        cold = share.index_fill(0, order[:hot], 0)
        sent, slices = _of_rows(cold, ranks)
        reduced = copied.sum().item() + (1 - (1 - copied) ** ranks).sum().item()
        yield "rows", hot, (sent + reduced * (ranks - 1) / ranks) * row_bytes, slices + 2 * reduced


def _of_rows(share: torch.Tensor, ranks: int) -> tuple[float, float]:
    """Rows that the busiest rank sends or receives, and slices."""
    cut = _C.TableSplit("rows", len(share), 1, ranks)
    own = [share[cut.rows(rank)].sum().item() for rank in range(ranks)]
    read = sum(own)
    sent = max(max((ranks - 1) * one, read - one) for one in own)
    return 2 * sent, 2 * (ranks * max(own) + read)


def _numbers_of_hot_rows(rows: int, ranks: int, read: int) -> Iterator[int]:
    """None, and powers of two, up to as many as a rank has rows of its own."""
    yield 0
    hot = 1
    while ranks > 1 and hot <= min(read, rows // ranks):
        yield hot
        hot *= 2


def _width(part: slice) -> int:
    width: int = part.stop - part.start
    return width
