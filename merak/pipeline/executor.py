"""Walks a rank's list of actions. It decides nothing: what happens when is the schedule's.

Sends and receives are begun and not waited for; a WAIT waits for what a RECV began, and the computing action behind it
finds its values. Values between stages of one rank stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
import torch.distributed as dist

from merak.graph.stages import Stage, Value
from merak.pipeline.messages import Direction, Message, Messages
from merak.pipeline.microbatches import MicroBatch
from merak.pipeline.schedule import Action, Schedule
from merak.pipeline.stage_runner import StageRunner, Tensors


class Executor:
    """Runs the actions of one rank.

    Args:
        schedule: with communication.
        rank: this one, in the schedule.
        runners: of the stages of this rank.
        messages: to and from other ranks.
        reduce: what REDUCE_GRAD of a stage does; None to run forwards only.
    """

    def __init__(
        self,
        schedule: Schedule,
        rank: int,
        runners: Mapping[int, StageRunner],
        messages: Messages,
        reduce: Callable[[int], None] | None,
    ) -> None:
        self._runners, self._messages = runners, messages
        self._schedule = schedule
        actions = schedule.actions(rank)
        self._actions = actions if reduce else [action for action in actions if action.kind.endswith("F")]
        self._checkpointed = {(action.stage, action.microbatch) for action in self._actions if action.kind == "R"}
        self._local = set(schedule.stages_of(rank))
        self._do = {
            "F": self._forward,
            "B": self._backward,
            "I": self._backward,
            "W": lambda action: self._runners[action.stage].backward_weights(action.microbatch),
            "R": self._recompute,
            "RECV_F": self._post,
            "RECV_B": self._post,
            "SEND_F": self._send,
            "SEND_B": self._send,
            "WAIT_F": self._wait,
            "WAIT_B": self._wait,
        }
        if reduce:
            self._do["REDUCE_GRAD"] = lambda action: reduce(action.stage)

    def step(
        self,
        microbatches: Sequence[MicroBatch],
        keep: Collection[int],
        loss: int | None = None,
        loss_gradient: float = 1.0,
    ) -> list[dict[int, torch.Tensor]]:
        """Runs all actions.

        Args:
            keep: numbers of the model's outputs that are wanted.
            loss: number of the output that backwards begin at; None where there are none.
            loss_gradient: the gradient that they begin with.

        Returns:
            By micro-batch, those of the wanted outputs that this rank's stages make.

        Raises:
            RuntimeError: naming stage, action and peer; its cause says the rest.
        """
        self._microbatches, self._keep, self._loss, self._loss_gradient = microbatches, keep, loss, loss_gradient
        self._arrived: dict[tuple[int, str, int], torch.Tensor] = {}
        self._leaving: dict[Message, torch.Tensor] = {}
        self._gradients: dict[tuple[int, int], Tensors] = {}
        self._outputs: list[dict[int, torch.Tensor]] = [{} for _ in microbatches]
        try:
            for action in self._actions:
                try:
                    self._do[action.kind](action)
                except Exception as error:
                    raise explained(error, self._place(action)) from error
            self._messages.finish()
        finally:
            self._messages.drop()
            for runner in self._runners.values():
                runner.forget()
            self._arrived.clear()
            self._leaving.clear()
            self._gradients.clear()
        return self._outputs

    def _loss_of(self, stage: Stage) -> set[str]:
        return {stage.outputs[self._loss]} if self._loss in stage.outputs else set()

    def _forward(self, action: Action) -> None:
        stage, index = action.stage, action.microbatch
        runner = self._runners[stage]
        received = {value.name: self._arrived.pop((stage, value.common, index)) for value in runner.stage.received}
        results = runner.forward(
            index,
            self._microbatches[index],
            received,
            checkpointed=(stage, index) in self._checkpointed,
            grad=self._loss is not None,
            needed={value.name for value in runner.stage.sent} | self._loss_of(runner.stage),
        )
        for number, name in runner.stage.outputs.items():
            if number in self._keep:
                self._outputs[index][number] = results[name]
            if number == self._loss:
                self._add_gradient(stage, index, name, torch.full_like(results[name], self._loss_gradient))
        for value in runner.stage.sent:
            for consumer in value.consumers:
                if consumer in self._local:  # which makes a leaf of it, so it needs a tensor of its own
                    self._arrived[consumer, value.common, index] = results[value.name].detach()
                else:
                    self._leaving[Message("F", value.common, stage, consumer, index)] = results[value.name]

    def _recompute(self, action: Action) -> None:
        self._runners[action.stage].recompute(action.microbatch)

    def _backward(self, action: Action) -> None:
        stage, index = action.stage, action.microbatch
        runner = self._runners[stage]
        gradients = runner.backward(index, self._gradients.pop((stage, index), {}), delay_weights=action.kind == "I")
        for value in runner.stage.received:
            if not value.has_gradient:
                continue
            if value.producer in self._local:
                self._add_gradient(value.producer, index, value.name, gradients[value.name])
            else:
                self._leaving[Message("B", value.common, value.producer, stage, index)] = gradients[value.name]

    def _add_gradient(self, stage: int, index: int, name: str, gradient: torch.Tensor) -> None:
        gradients = self._gradients.setdefault((stage, index), {})
        gradients[name] = gradients[name] + gradient if name in gradients else gradient

    def _send(self, action: Action) -> None:
        for message, value in self._messages_of(action, sent=True):
            self._messages.send(message, value, self._leaving.pop(message), self._sizes_of(action))

    def _post(self, action: Action) -> None:
        for message, value in self._messages_of(action):
            self._messages.post(message, value, self._sizes_of(action))

    def _wait(self, action: Action) -> None:
        pairs = self._messages_of(action)
        tensors = self._messages.wait([message for message, _ in pairs])
        for (message, value), tensor in zip(pairs, tensors, strict=True):
            if message.direction == "F":
                self._arrived[action.stage, value.common, action.microbatch] = tensor
            else:
                self._add_gradient(action.stage, action.microbatch, value.name, tensor)

    def _sizes_of(self, action: Action) -> dict[str, int]:
        return self._microbatches[action.microbatch].sizes

    def _messages_of(self, action: Action, sent: bool = False) -> list[tuple[Message, Value]]:
        """All that an action is about. Values leave their producer, gradients their consumer."""
        direction: Direction = "F" if action.kind.endswith("F") else "B"
        at_producer = sent == (direction == "F")
        producer, consumer = (action.stage, action.peer) if at_producer else (action.peer, action.stage)
        return [
            (Message(direction, value.common, producer, consumer, action.microbatch), value)
            for value in self._messages.values(direction, producer, consumer, action.stage)
        ]

    def _place(self, action: Action) -> str:
        text = f"stage {action.stage}, action {action.kind}"
        if action.microbatch >= 0:
            text += f" of micro-batch {action.microbatch}"
        if action.peer >= 0:
            text += f", peer stage {action.peer} on pipeline rank {self._schedule.stage_to_rank[action.peer]}"
        return text


def explained(error: Exception, place: str) -> Exception:
    """The error again, of a kind that callers may rely on, with where it happened in front."""
    kind = type(error) if isinstance(error, dist.DistBackendError | dist.DistNetworkError) else RuntimeError
    return kind(f"{place}: {error}")
