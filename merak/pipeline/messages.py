"""Values and gradients on their way between stages.

Nothing here waits but `wait`. Every message has a tag of its own, made of the value's number, the direction and the
micro-batch, so that messages may be sent and received in any order that a schedule gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist

from merak._torch_compat import evaluate_size
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
        self._number = {(value.name, value.producer): number for number, value in enumerate(values)}
        self._values: dict[tuple[int, int], list[Value]] = {}
        for value in values:
            for consumer in value.consumers:
                self._values.setdefault((value.producer, consumer), []).append(value)
        self._sending: list[tuple[Message, Any, torch.Tensor]] = []
        self._receiving: dict[Message, tuple[Any, torch.Tensor]] = {}

    def values(self, direction: Direction, producer: int, consumer: int) -> list[Value]:
        """What travels between two stages."""
        values = self._values.get((producer, consumer), [])
        return values if direction == "F" else [value for value in values if value.has_gradient]

    def send(self, message: Message, tensor: torch.Tensor) -> None:
        """Sends; the tensor is kept until it has left, and must not be written to."""
        tensor = _on_wire(tensor.contiguous())
        to = message.consumer if message.direction == "F" else message.producer
        work = dist.isend(tensor, group=self._group, group_dst=self._ranks[to], tag=self._tag(message))
        self._sending.append((message, work, tensor))

    def post(self, message: Message, value: Value, sizes: Mapping[str, int]) -> None:
        """Begins to receive."""
        shape = [evaluate_size(size, dict(sizes)) for size in value.fake.shape]
        tensor = torch.empty(shape, dtype=value.fake.dtype, device=self._device)
        source = message.producer if message.direction == "F" else message.consumer
        work = dist.irecv(_on_wire(tensor), group=self._group, group_src=self._ranks[source], tag=self._tag(message))
        self._receiving[message] = work, tensor

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
        for _, work, _ in self._sending:
            work.wait()
        self._sending.clear()

    def drop(self) -> None:
        """Forgets what is under way, after a step that failed."""
        self._sending.clear()
        self._receiving.clear()

    def _tag(self, message: Message) -> int:
        number = self._number[message.value, message.producer]
        return (message.microbatch * len(self._number) + number) * 2 + (message.direction == "B")


def _on_wire(tensor: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor
