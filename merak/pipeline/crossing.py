"""What of a value each rank sends, where the ranks of a *team* share a stage, and those of another the next one.

A value that is whole on all m ranks of its team crosses once, not m times: links between stages are the slow ones.

    senders     rank t sends the elements [t c, (t + 1) c), c = ceil(N / m), in their order in memory
    receivers   rank r needs its *share* [r d, (r + 1) d), d = ceil(N / n), from whoever sends these elements,
                and gathers the others' shares within its team, over links that are fast

With m = n that is Megatron-LM's scatter-gather of what crosses stages, with other n it is the same. A value of fewer
than `LEAST_BYTES` goes whole to each receiver: a gather takes longer to begin than it does to cross.

A value that lies *divided* over its team goes to the ranks with the same places, if the other team is as large: they
need just these parts. Else it is joined before it leaves, and receivers take their parts when they have it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist

LEAST_BYTES = 16 * 1024


class Division(Protocol):
    """How a value lies over a team, given what the symbols in its sizes stand for."""

    def whole(self, part: torch.Tensor, sizes: dict[str, int]) -> torch.Tensor:
        """The value. Collective over the team."""

    def part(self, whole: torch.Tensor, sizes: dict[str, int]) -> torch.Tensor:
        """This rank's part of it."""

    def shape(self, sizes: dict[str, int]) -> list[int]:
        """Of the whole."""


@dataclass(frozen=True)
class Teams:
    """Who shares which stages.

    Attributes:
        of_stage: the ranks of each stage's team, in the group that messages travel in.
        place: this rank's, in its team.
        group: of this rank's team; None if it is alone.
        divisions: of the values that this rank sends or receives, those that lie divided over its team.
    """

    of_stage: Sequence[Sequence[int]]
    place: int = 0
    group: dist.ProcessGroup | None = None
    divisions: Mapping[str, Division] = field(default_factory=dict)

    @staticmethod
    def of_one(ranks: Sequence[int]) -> Teams:
        """Each stage has one rank."""
        return Teams([[rank] for rank in ranks])


class Leg(NamedTuple):
    """From one place in a team to one in another: elements, in their order in memory."""

    sender: int
    receiver: int
    begin: int
    end: int


def share_of(elements: int, ranks: int) -> int:
    """The length of a share; the last ones may have less in them."""
    return -(-elements // ranks)


def is_shared(elements: int, element_bytes: int, receivers: int) -> bool:
    """Whether receivers of a whole value are sent a share each."""
    return receivers > 1 and elements * element_bytes >= LEAST_BYTES


def legs(elements: int, element_bytes: int, senders: int, receivers: int) -> Sequence[Leg]:
    """How a value that is whole on all senders comes to the receivers: to each one its share, or all of it."""
    return _legs(elements, senders, receivers, elements * element_bytes < LEAST_BYTES)


@functools.lru_cache(1024)
def _legs(elements: int, senders: int, receivers: int, small: bool) -> Sequence[Leg]:
    if small:
        return [Leg(receiver % senders, receiver, 0, elements) for receiver in range(receivers)]
    sent, got = share_of(elements, senders), share_of(elements, receivers)
    pairs = [(sender, receiver) for sender in range(senders) for receiver in range(receivers)]
    found = [Leg(s, r, max(s * sent, r * got), min((s + 1) * sent, (r + 1) * got, elements)) for s, r in pairs]
    return [leg for leg in found if leg.begin < leg.end]
