"""Values and gradients on their way between stages.

Nothing here waits but `wait`. Every message has a tag of its own, made of the value's number, the direction and the
micro-batch, so that messages may be sent and received in any order that a schedule gives.

A value arrives with its dimensions in memory in the order in which they were captured: a stage that takes a transposed
value for a view of another shape would fail on one that lies in memory otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist

from merak._torch_graphs import evaluate_size, size_hint
from merak.graph.stages import Stage, Value

Direction = Literal["F", "B"]
"""Values go forward, their gradients backward."""


class Message(NamedTuple):
    """What travels: a value (or its gradient), from one stage to another, of a micro-batch."""

    direction: Direction
    value: str
    producer: int
    consumer: int
    microbatch: int


class Messages:
    """The messages of one rank.

    Args:
        stages: all stages, of every rank.
        ranks: of each stage, the rank in `group`.
        group: the ranks of one replica.
        device: where tensors are.
    """

    def __init__(
        self, stages: Sequence[Stage], ranks: Sequence[int], group: dist.ProcessGroup, device: torch.device
    ) -> None:
        self._ranks, self._group, self._device = ranks, group, device
        values = [value for stage in stages for value in stage.sent]
        self._number = {value.name: number for number, value in enumerate(values)}
        self._values: dict[tuple[int, int], list[Value]] = {}
        for value in values:
            for consumer in value.consumers:
                self._values.setdefault((value.producer, consumer), []).append(value)
        self._order = {value.name: order_in_memory(value.fake) for value in values}
        self._sending: list[tuple[Any, torch.Tensor]] = []
        self._receiving: dict[Message, tuple[Any, torch.Tensor]] = {}

    def values(self, direction: Direction, producer: int, consumer: int) -> list[Value]:
        """What travels between two stages."""
        values = self._values.get((producer, consumer), [])
        return values if direction == "F" else [value for value in values if value.has_gradient]

    def send(self, message: Message, tensor: torch.Tensor) -> None:
        """Sends; the tensor is kept until it has left, and must not be written to."""
        self._forget_sent()
        order = self._order[message.value]
        tensor = on_wire(tensor.permute(order).contiguous())
        to = message.consumer if message.direction == "F" else message.producer
        work = dist.isend(tensor, group=self._group, group_dst=self._ranks[to], tag=self._tag(message))
        self._sending.append((work, tensor))

    def post(self, message: Message, value: Value, sizes: Mapping[str, int]) -> None:
        """Begins to receive."""
        order = self._order[message.value]
        shape = [evaluate_size(value.fake.shape[dim], dict(sizes)) for dim in order]
        tensor = torch.empty(shape, dtype=value.fake.dtype, device=self._device)
        source = message.producer if message.direction == "F" else message.consumer
        work = dist.irecv(on_wire(tensor), group=self._group, group_src=self._ranks[source], tag=self._tag(message))
        self._receiving[message] = work, tensor.permute([order.index(dim) for dim in range(len(order))])

    def wait(self, message: Message) -> torch.Tensor:
        """The tensor that was posted, when it has come.

        Raises:
            torch.distributed.DistBackendError: it did not come before the group's deadline, or its sender is gone.
        """
        work, tensor = self._receiving.pop(message)
        work.wait()
        return tensor

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

    def _tag(self, message: Message) -> int:
        return (message.microbatch * len(self._number) + self._number[message.value]) * 2 + (message.direction == "B")


def order_in_memory(fake: torch.Tensor) -> list[int]:
    """The dimensions from the outermost in memory to the innermost, as they were captured."""
    strides = [size_hint(stride) for stride in fake.stride()]
    return sorted(range(fake.dim()), key=lambda dim: -strides[dim])


def on_wire(tensor: torch.Tensor) -> torch.Tensor:
    """What is sent of a tensor, or received into it: complex numbers as pairs."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
