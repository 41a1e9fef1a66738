"""Values and gradients on their way between stages.

Nothing here waits but `wait`. Every message has a tag of its own, made of the value's number, the direction and the
micro-batch, so that messages may be sent and received in any order that a schedule gives.

A value arrives with its dimensions in memory in the order in which they were captured: a stage that takes a transposed
value for a view of another shape would fail on one that lies in memory otherwise. (Teams of different sizes have
different graphs, which may not agree on that order: between them elements travel in the order in which they are read.)

What several ranks send together, and gather, `crossing` says. They run one schedule, so all of them come to a gather in
the order of their waits; a wait needs what was sent by actions that are before it in any order that the schedule
allows, and so do the waits of the others in its team: no circle comes of it. What is begun early is the receiving of
shares, never a gather.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist

from merak._torch_graphs import evaluate_size, size_hint
from merak.graph.stages import Stage, Value
from merak.pipeline.crossing import Division, Leg, Teams, is_shared, legs, share_of

Direction = Literal["F", "B"]
"""Values go forward, their gradients backward."""


class Message(NamedTuple):
    """What travels: a value (or its gradient), by the name that all ranks know, from one stage to another, of a
    micro-batch."""

    direction: Direction
    value: str
    producer: int
    consumer: int
    microbatch: int


@dataclass(frozen=True)
class _Way:
    """How a value goes between this rank's team and another.

    Attributes:
        own, others: their ranks.
        straight: from each place to the same one; else by `legs`.
        division: to be joined by before it is sent, and divided by when it has come.
        order: of the dimensions on the wire, from the outermost on.
        in_memory: the order that this rank's graph has them in.
    """

    own: Sequence[int]
    others: Sequence[int]
    straight: bool
    division: Division | None
    order: list[int]
    in_memory: list[int]

    def legs(self, elements: int, element_bytes: int, place: int, sends: bool) -> list[Leg]:
        """Those that this rank sends, or receives."""
        if self.straight:
            return [Leg(place, place, 0, elements)]
        teams = (self.own, self.others) if sends else (self.others, self.own)
        found = legs(elements, element_bytes, *map(len, teams))
        return [leg for leg in found if place == (leg.sender if sends else leg.receiver)]


@dataclass
class _Arriving:
    """What has been posted: `room` is for all elements, or for a share of them."""

    works: list[Any]
    room: torch.Tensor
    shape: list[int]
    sizes: dict[str, int]
    way: _Way
    value: Value
    shared: bool

    def gather(self, team: dist.ProcessGroup | None) -> None:
        """Waits for what is to come from other stages, and begins to gather what the others of this team have got."""
        for work in self.works:
            work.wait()
        if self.shared:
            share, self.room = self.room, self.room.new_empty(self.room.numel() * len(self.way.own))
            self.works = [dist.all_gather_into_tensor(self.room, share, group=team, async_op=True)]

    def take(self) -> torch.Tensor:
        """The tensor, as this rank's stage has it."""
        if self.shared:
            self.works[0].wait()
        tensor = _slice(self.room, 0, math.prod(self.shape)).view(self.shape)
        if self.value.fake.is_complex():
            tensor = torch.view_as_complex(tensor)
        tensor = _from_order(tensor, self.way.order)
        if self.way.division is not None:
            tensor = self.way.division.part(tensor, self.sizes)
        if self.way.order == self.way.in_memory:
            return tensor
        return _from_order(tensor.permute(self.way.in_memory).contiguous(), self.way.in_memory)


class Messages:
    """The messages of one rank.

    Args:
        stages: all stages, of every rank.
        teams: who shares them.
        group: the ranks of one replica.
        device: where tensors are.
    """

    def __init__(self, stages: Sequence[Stage], teams: Teams, group: dist.ProcessGroup, device: torch.device) -> None:
        self._teams, self._group, self._device = teams, group, device
        names = sorted({value.common for stage in stages for value in stage.sent})
        self._number = {name: number for number, name in enumerate(names)}
        self._values: dict[tuple[int, int, int], list[Value]] = {}
        for stage in stages:
            for value in stage.sent:
                for consumer in value.consumers:
                    self._values.setdefault((stage.index, value.producer, consumer), []).append(value)
            for value in stage.received:
                self._values.setdefault((stage.index, value.producer, stage.index), []).append(value)
        self._ways: dict[tuple[str, int, int], _Way] = {}
        self._sending: list[tuple[Any, torch.Tensor]] = []
        self._receiving: dict[Message, _Arriving] = {}

    def values(self, direction: Direction, producer: int, consumer: int, here: int) -> list[Value]:
        """What travels between two stages, as the one of them that is `here` has it."""
        values = self._values.get((here, producer, consumer), [])
        return values if direction == "F" else [value for value in values if value.has_gradient]

    def send(self, message: Message, value: Value, tensor: torch.Tensor, sizes: dict[str, int]) -> None:
        """Sends; the tensor is kept until it has left, and must not be written to. Where it has to be joined for a team
        of another size, that is collective over this rank's team.

        Args:
            value: as this rank has it.
            sizes: what the symbols in its shape stand for.
        """
        self._forget_sent()
        way = self._way(message, value, sends=True)
        if way.division is not None:
            tensor = way.division.whole(tensor.contiguous(), sizes)
        elements = on_wire(tensor.permute(way.order).contiguous()).view(-1)
        for leg in way.legs(elements.numel(), elements.element_size(), self._teams.place, sends=True):
            piece, to = _slice(elements, leg.begin, leg.end), way.others[leg.receiver]
            work = dist.isend(piece, group=self._group, group_dst=to, tag=self._tag(message))
            self._sending.append((work, piece))

    def post(self, message: Message, value: Value, sizes: dict[str, int]) -> None:
        """Begins to receive; see `send`."""
        way, fake = self._way(message, value, sends=False), value.fake
        whole = [evaluate_size(size, sizes) for size in fake.shape]
        if way.division is not None:
            whole = way.division.shape(sizes)
        shape = [whole[dim] for dim in way.order] + [2] * fake.is_complex()
        elements, dtype = math.prod(shape), fake.dtype.to_real() if fake.is_complex() else fake.dtype
        place, ranks = self._teams.place, len(way.own)
        shared = not way.straight and is_shared(elements, dtype.itemsize, ranks)
        length = share_of(elements, ranks) if shared else elements
        begin = place * length if shared else 0
        room = torch.empty(length, dtype=dtype, device=self._device)
        works = []
        for leg in way.legs(elements, dtype.itemsize, place, sends=False):
            piece, source = _slice(room, leg.begin - begin, leg.end - begin), way.others[leg.sender]
            works.append(dist.irecv(piece, group=self._group, group_src=source, tag=self._tag(message)))
        self._receiving[message] = _Arriving(works, room, shape, sizes, way, value, shared)

    def wait(self, messages: Sequence[Message]) -> list[torch.Tensor]:
        """The tensors that were posted, when they have come. Where shares are gathered, collective over this rank's
        team.

        Raises:
            torch.distributed.DistBackendError: one did not come before the group's deadline, or its sender is gone.
        """
        arriving = [self._receiving.pop(message) for message in messages]
        for one in arriving:
            one.gather(self._teams.group)
        return [one.take() for one in arriving]

    def finish(self) -> None:
        """Waits until all that was sent has left."""
        for work, _ in self._sending:
            work.wait()
        self._sending.clear()

    def drop(self) -> None:
        """Forgets what is under way, after a step that failed."""
        self._sending.clear()
        self._receiving.clear()

    def _forget_sent(self) -> None:
        """Lets go of what has left, so that it takes no memory until the step's end. Raises what went wrong with it."""
        waiting = []
        for work, tensor in self._sending:
            if work.is_completed():
                work.wait()
            else:
                waiting.append((work, tensor))
        self._sending = waiting

    def _way(self, message: Message, value: Value, sends: bool) -> _Way:
        here, there = message.producer, message.consumer
        if sends != (message.direction == "F"):
            here, there = there, here
        key = message.value, here, there
        if key not in self._ways:
            own, others = self._teams.of_stage[here], self._teams.of_stage[there]
            division, same = self._teams.divisions.get(message.value), len(own) == len(others)
            in_memory = order_in_memory(value.fake)
            order = in_memory if same else list(range(value.fake.dim()))
            straight = same and division is not None
            self._ways[key] = _Way(own, others, straight, None if same else division, order, in_memory)
        return self._ways[key]

    def _tag(self, message: Message) -> int:
        return (message.microbatch * len(self._number) + self._number[message.value]) * 2 + (message.direction == "B")


def _slice(elements: torch.Tensor, begin: int, end: int) -> torch.Tensor:
    return elements if begin == 0 and end == elements.numel() else elements[begin:end]


def _from_order(tensor: torch.Tensor, order: list[int]) -> torch.Tensor:
    """The tensor whose dimensions lie in memory in this order, of one that has them in this order."""
    if order == sorted(order):
        return tensor
    return tensor.permute([order.index(dim) for dim in range(len(order))])


def order_in_memory(fake: torch.Tensor) -> list[int]:
    """The dimensions from the outermost in memory to the innermost, as they were captured."""
    strides = [size_hint(stride) for stride in fake.stride()]
    return sorted(range(fake.dim()), key=lambda dim: -strides[dim])


def on_wire(tensor: torch.Tensor) -> torch.Tensor:
    """What is sent of a tensor, or received into it: complex numbers as pairs."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
