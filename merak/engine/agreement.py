"""What ranks agree on by a few numbers."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from merak.backend.texts import gather_json
from merak.engine.layout import Layout
from merak.sharding.same_on_all import lines_of

_LONGEST_LINE = 400


class Call(NamedTuple):
    """What ranks must agree on when an engine is called, in words."""

    everywhere: str = ""
    """The same on all ranks."""
    in_replica: str = ""
    """The same on the ranks of one replica: lines of what they were given."""

    def differences(self, layout: Layout) -> list[float]:
        """Numbers whose sums over all ranks are 0 if all agree: the first rank's counts once for each of the others,
        and theirs are taken off. They are whole and small, so that the sums are exact."""
        in_replica, members = layout.in_replica, sum(layout.widths)
        pairs = (self.everywhere, layout.rank, members * layout.dp), (self.in_replica, in_replica, members)
        return [float(zlib.crc32(text.encode()) * (-1 if place else places - 1)) for text, place, places in pairs]

    def refusal(self, layout: Layout, device: torch.device) -> ValueError:
        """Who differs, and how; the same on all ranks. Collective."""
        calls = {int(rank): Call(*call) for rank, call in merge_on_all({str(layout.rank): self}, device).items()}
        for rank, call in sorted(calls.items()):
            if call.everywhere != calls[0].everywhere:
                return ValueError(
                    f"rank {rank} was asked for {call.everywhere}, and rank 0 for {calls[0].everywhere}: all ranks "
                    "must make the same calls of an engine in the same order"
                )
        for rank, call in sorted(calls.items()):
            first = layout.first_of_replica(rank)
            lines = itertools.zip_longest(*(one.in_replica.splitlines() for one in (call, calls[first])))
            for mine, other in lines:
                if mine != other:
                    return ValueError(
                        f"rank {rank} was given {mine or 'nothing more'}, and rank {first} {other or 'nothing more'}: "
                        "give all ranks of one replica (`engine.dp_rank`) the same batches, by samplers that have "
                        "`rank=engine.dp_rank` and `num_replicas=engine.dp_size`, and one seed for what is drawn"
                    )
        return ValueError("ranks of one engine were called in different ways")


@contextlib.contextmanager
def together(what: str, device: torch.device) -> Iterator[None]:
    """What each rank does by itself, and may fail at: then all ranks raise, those where it did not ValueError."""
    problem: Exception | None = None
    try:
        yield
    except Exception as error:  # whatever it is, other ranks wait to hear of it
        problem = error
    rank = dist.get_rank()
    failed = add_up([float(problem is not None and one == rank) for one in range(dist.get_world_size())], None, device)
    if problem is not None:
        raise problem
    if any(failed):
        ranks = [one for one, number in enumerate(failed) if number]
        raise ValueError(f"{what} failed on ranks {ranks}; they say why")


def add_up(numbers: Sequence[float], group: dist.ProcessGroup | None, device: torch.device) -> list[float]:
    """The sums of numbers over a group's ranks (None: all ranks), in double precision."""
    tensor = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.all_reduce(tensor, group=group)
    return list(tensor.tolist())


def check_same(text: str, what: str, device: torch.device) -> None:
    """Raises ValueError on every rank, with the first line that differs, unless all ranks have the same text."""
    values = gather_digests(hashlib.blake2b(text.encode(), digest_size=7).digest(), device)
    if odd := [rank for rank, value in enumerate(values) if value != values[0]]:
        number, first, other = _first_difference(text, odd[0], device)
        raise ValueError(
            f"the {what} of ranks {odd} differ from rank 0's: give all ranks the same. In line {number}, rank 0 has\n"
            f"  {first}\nand rank {odd[0]}\n  {other}"
        )


def _first_difference(text: str, odd: int, device: torch.device) -> tuple[int, str, str]:
    """Where rank `odd`'s text first differs from rank 0's, and their lines; on every rank."""
    reference = merge_on_all({"text": text}, device)["text"]
    pairs = enumerate(itertools.zip_longest(reference.splitlines(), text.splitlines(), fillvalue="(nothing more)"), 1)
    number, (first, mine) = next(((n, pair) for n, pair in pairs if pair[0] != pair[1]), (0, ("", "")))
    found = number, first[:_LONGEST_LINE], mine[:_LONGEST_LINE]
    return tuple(merge_on_all({str(dist.get_rank()): found}, device)[str(odd)])


def gather_digests(digest: bytes, device: torch.device) -> list[int]:
    """The digests of all ranks, of 7 bytes each, as numbers."""
    mine = torch.tensor([int.from_bytes(digest, "little")], dtype=torch.int64, device=device)
    everyones = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyones, mine)
    return [int(one) for one in everyones]


def digest_of_values(model: nn.Module) -> str:
    """What differs if models do: a line for each parameter and buffer, with a sum of its bits, the same on any
    processor. What is on the meta device has no values yet."""
    return "\n".join(lines_of(dict(model.named_parameters()) | dict(model.named_buffers())))


def merge_on_all(mine: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The union of all ranks' dicts, which travel as JSON. Where several have a key, the lowest rank's."""
    merged: dict[str, Any] = {}
    for one in gather_json(mine, device):
        merged = one | merged
    return merged
