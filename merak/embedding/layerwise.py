"""Steps of dense layers, each taken when the next forward pass comes to the layer.

DDP waits for all gradients at the end of a backward pass, though those of the last layers are needed last. Here only
those of a *block* are waited for, when the forward pass enters it; what later blocks wait for travels beside its
computation. Gradients travel in buckets of DDP; of messages that are ready, those of the block that comes first go
first, whatever started before.

A parameter whose step is due is empty, so that code that reads it without entering its block raises an error.

Source: Y. Peng et al., "A Generic Communication Scheduler for Distributed DNN Training Acceleration" (ByteScheduler),
2019; with rows of embeddings before all layers, S. Li et al., "EmbRace", 2022.
"""
# Without `from __future__ import annotations`: DDP looks at the annotations of hooks, and wants types.

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import merak.backend
from merak._torch_compat import GradBucket
from merak.embedding.lookup import NO_TIMEOUT

_STEPS_AT_ONCE = 2
"""DDP looks at the sizes of parameters to make its buckets anew, before its second forward pass."""


@dataclasses.dataclass
class _Due:
    """A parameter's step that is to be taken."""

    value: torch.Tensor
    gradient: torch.Tensor


@dataclasses.dataclass
class _OnItsWay:
    """A gradient of the last backward pass, and what the parameter has in its place."""

    gradient: torch.Tensor
    stand_in: torch.Tensor


class LayerwiseOptimizer:
    """Takes the steps of an optimizer block by block in the next forward pass, while gradients are on their way. The
    numbers are those of the optimizer.

        ddp = DistributedDataParallel(model, gradient_as_bucket_view=True, bucket_cap_mb=1)
        layers = merak.embedding.LayerwiseOptimizer(ddp, torch.optim.Adam(parameters))
        for batch in loader:
            ddp(batch).backward()
            layers.step()

    Blocks are the elements of `Sequential` and `ModuleList`, and modules that contain neither; each is entered by its
    own forward pass or that of a module within. Between the backward pass and `step()` gradients are NaN: `wait()`
    first, to clip them for instance; the step is then taken at once. `step()` uses them up. Call `flush()` before
    parameters are read or written outside a forward pass, as averages of weights do, or copies of the model;
    `state_dict()` does it itself. Learning rates are those of the moment of `step()`.

    Args:
        ddp: over merak, with `gradient_as_bucket_view=True`, and without a communication hook. Small buckets, say
            `bucket_cap_mb=1`, let gradients leave early.
        optimizer: of all parameters that `ddp` averages gradients of; one that treats each for itself, as most of
            torch.optim do. It is not to be stepped by itself any more.
        prioritise: False lets gradients go in the order in which they are there.

    Raises:
        ValueError: gradients are no views of buckets, or the optimizer lacks a parameter, or has another.
        RuntimeError: of `step()`, `wait()` and `zero_grad()`: a gradient was changed while it was on its way.
    """

    def __init__(
        self, ddp: DistributedDataParallel, optimizer: torch.optim.Optimizer, *, prioritise: bool = True
    ) -> None:
        if not isinstance(ddp, DistributedDataParallel) or not ddp.gradient_as_bucket_view:
            raise ValueError("pass a DistributedDataParallel, made with gradient_as_bucket_view=True.")
        self.optimizer, self._prioritise = optimizer, prioritise
        self._backend = merak.backend.of_group(ddp.process_group)
        self._steps_at_once = _STEPS_AT_ONCE
        self._works: dict[torch.Tensor, dist.Work] = {}
        self._gradients: dict[torch.Tensor, _OnItsWay] = {}
        self._due: dict[torch.Tensor, _Due] = {}
        self._options: list[dict[str, Any]] = []
        self._watch(ddp)

    def step(self) -> None:
        """Has the steps taken when the next forward pass needs them."""
        if not self._gradients or self._steps_at_once > 0:
            self._steps_at_once -= 1
            self.wait()
            self.optimizer.step()
            self.optimizer.zero_grad()  # here as below, where the gradients are used up
            return
        self._options = [_options(group) for group in self.optimizer.param_groups]
        for parameter, gradient in self._kept().items():
            parameter.grad = None
            self._due[parameter] = _Due(parameter.data, gradient)
            parameter.data = parameter.new_empty(0)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As of the optimizer; steps that are due are taken all the same."""
        self.wait()
        self.optimizer.zero_grad(set_to_none)

    def wait(self) -> None:
        """Waits for the gradients of the last backward pass, which are then where they are without this."""
        for parameter in self._gradients:
            self._works[parameter].wait()  # before any is handed over: after an error all are as they were
        for parameter, gradient in self._kept().items():
            parameter.grad = gradient

    def flush(self) -> None:
        """Takes the steps that are due."""
        self._take(list(self._due))

    def state_dict(self) -> dict[str, Any]:
        """Of the optimizer, after all steps."""
        return self.optimizer.state_dict()  # which flushes

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Into the optimizer."""
        self.flush()
        self.optimizer.load_state_dict(state_dict)

    def _watch(self, ddp: DistributedDataParallel) -> None:
        ignored = ddp.parameters_to_ignore
        known = {one for name, one in ddp.module.named_parameters() if name not in ignored and one.requires_grad}
        mine = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        if set(mine) != known:
            raise ValueError(
                "the optimizer has to have all parameters whose gradients DistributedDataParallel averages, and no "
                "others."
            )
        for modules, parameters in _blocks(ddp.module, set(mine)):
            for module in modules:
                module.register_forward_pre_hook(self._enter(parameters))
        ddp.register_forward_pre_hook(lambda *_: self.wait())  # where no step came: gradients are added to
        ddp.register_forward_hook(lambda *_: self.flush())  # blocks that were not entered
        for module in ddp.module.modules():
            module.register_state_dict_pre_hook(lambda *_: self.flush())
            module.register_load_state_dict_pre_hook(lambda *_: self.flush())
        self.optimizer.register_state_dict_pre_hook(lambda *_: self.flush())
        ddp.register_comm_hook(self, _start)

    def _enter(self, parameters: list[torch.nn.Parameter]) -> Any:
        return lambda *_: self._take(parameters)

    def _take(self, parameters: list[torch.Tensor] | list[torch.nn.Parameter]) -> None:
        if not self._due:  # in most calls, of all modules
            return
        due = {parameter: self._due[parameter] for parameter in parameters if parameter in self._due}
        if not due:
            return
        for parameter in due:
            self._works[parameter].wait()  # if it raises an error, all are due still
        seen = {parameter: parameter.grad for parameter in due}
        for parameter, one in due.items():
            del self._due[parameter]
            parameter.data, parameter.grad = one.value, one.gradient
        self._step_of(due)
        for parameter, gradient in seen.items():
            parameter.grad = gradient

    def _step_of(self, parameters: dict[torch.Tensor, _Due]) -> None:
        groups = self.optimizer.param_groups
        parts = [[one for one in group["params"] if one in parameters] for group in groups]
        self.optimizer.param_groups = [
            {**options, "params": part} for options, part in zip(self._options, parts, strict=True) if part
        ]
        try:
            self.optimizer.step()
        finally:
            self.optimizer.param_groups = groups

    def _average(self, bucket: GradBucket) -> torch.Tensor:
        if bucket.index() == 0:  # DDP starts with it
            torch.autograd.Variable._execution_engine.queue_callback(self._hide_after_ddp)
        buffer: torch.Tensor = bucket.buffer()
        work = self._backend.average(buffer, bucket.index() if self._prioritise else 0, NO_TIMEOUT)
        for parameter in bucket.parameters():
            self._works[parameter] = work
        return buffer

    def _hide_after_ddp(self) -> None:
        # Callbacks run in the order in which they are queued; DDP has queued its own by now.
        torch.autograd.Variable._execution_engine.queue_callback(self._hide)

    def _hide(self) -> None:
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter in self._works:
                    stand_in = parameter.new_full((), float("nan")).expand(parameter.shape)
                    self._gradients[parameter] = _OnItsWay(parameter.grad, stand_in)
                    parameter.grad = stand_in

    def _kept(self) -> dict[torch.Tensor, torch.Tensor]:
        """Hands over the gradients that are not to be seen, but for those that zero_grad has dropped; waits for these,
        since their bucket is written to again."""
        for parameter, one in self._gradients.items():
            if parameter.grad is None:
                self._works[parameter].wait()
            elif parameter.grad is not one.stand_in or one.stand_in._version != 0:
                raise RuntimeError(
                    "a gradient was changed that is on its way: call wait() of the LayerwiseOptimizer before it, and "
                    "drop gradients by setting them to None."
                )
        gradients, self._gradients = self._gradients, {}
        return {parameter: one.gradient for parameter, one in gradients.items() if parameter.grad is not None}


def _start(layers: LayerwiseOptimizer, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    future.set_result(layers._average(bucket))  # DDP goes on; the average comes to the same place
    return future


def _options(group: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.clone() if isinstance(value, torch.Tensor) else value
        for name, value in group.items()
        if name != "params"
    }


def _blocks(
    root: torch.nn.Module, parameters: set[torch.nn.Parameter]
) -> Iterator[tuple[list[torch.nn.Module], list[torch.nn.Parameter]]]:
    """Blocks, each as the modules by which it is entered, with those of `parameters` that it has. What modules that are
    no block have of their own is needed where the root begins, and so is what several modules share."""
    owners = collections.Counter(one for module in root.modules() for one in module.parameters(recurse=False))
    left = {one for one in parameters if owners[one] == 1}
    for block in _cut(root):
        claimed = [one for one in block.parameters() if one in left]
        left.difference_update(claimed)
        if claimed:
            yield list(block.modules()), claimed
    yield [root], [one for one in parameters if one in left or owners[one] != 1]


def _cut(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    lists = (torch.nn.Sequential, torch.nn.ModuleList, torch.nn.ModuleDict)
    for child in module.children():
        if isinstance(module, lists) or not any(isinstance(inner, lists) for inner in child.modules()):
            if not isinstance(child, torch.nn.ParameterList | torch.nn.ParameterDict):  # nobody enters those
                yield child
        else:
            yield from _cut(child)
