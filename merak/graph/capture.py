"""Capture: the computation of an unmodified model, as one flat graph of PyTorch's own operations.

`torch.export` runs the model once on fake tensors, which have shapes and no data, and writes down every operation. What
a model does beside its computation is put aside here, so that users need not know of it: caches of keys and values are
switched off, nested inputs and classes of outputs are taken apart (`trees`), and equal tensors of an example are told
apart (an export takes labels that *are* the input ids for the same input, for good). Users' autograd Functions stay
what they are (`functions`), assignments to buffers become copies (`buffers`), and what `forward` changes in Python's
objects is put back, and refused where it matters (`attributes`, `second_call`).

The batch's dimensions, and all of those of integer tensors, are symbols: one graph serves micro-batches of any size and
length. A dimension of 1 would be taken for a constant, so the example is doubled where its batch is 1.

The graph's placeholders are parameters and buffers under the model's own names (a tied parameter under the first of its
names), constants, and leaves of the batch by path.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import fx, nn

from merak._torch_graphs import ExportedGraph, depends_on_values, export_graph, size_conditions, symbols_of_size
from merak.graph.attributes import Attributes
from merak.graph.buffers import Buffers
from merak.graph.errors import CaptureError, explain_changes, explain_failure, explain_sizes_of_values
from merak.graph.experts import experts_marked
from merak.graph.functions import KeptFunctions
from merak.graph.hooks import refuse_backward_hooks, tensor_hooks_refused
from merak.graph.host_randomness import draws_refused
from merak.graph.second_call import TwoCalls
from merak.graph.trees import Flat, Template, flatten, rebuild, with_tensors

LossFunction = Callable[[Any, Mapping[str, Any]], torch.Tensor]
"""From the model's output and the batch to a loss: a tensor with one element."""


class Source(NamedTuple):
    """What a placeholder stands for: `key` is a name of the model's, the key of a constant, the path of an input, or
    the number of a loss's term."""

    kind: Literal["parameter", "buffer", "constant", "input", "scale"]
    key: str


@dataclasses.dataclass(frozen=True)
class Captured:
    """A model's computation. The graph is owned, and later passes change it in place.

    Attributes:
        graph: placeholders, operations in order of execution, and an output of a flat list of values.
        sources: what each placeholder stands for, by the name of its node.
        constants: tensors that the model makes out of nothing, by key.
        inputs: leaves of the batch that are tensors: path and fake tensor, whose shape has symbols.
        fixed: leaves of the batch that are not, by path. They are part of the graph.
        outputs: path of each tensor in the output, the loss of a `loss_fn` behind them.
        template, leaves: to build the model's output of tensors; where a leaf is not one, what it is.
        loss: which of the outputs is the loss, or None.
        training: whether the model was in training mode.
        conditions: what the model asked of sizes, and the graph takes for granted; for `holds`.
        more_sizes: symbols that stand for what follows from other sizes, in order: by name, a function of the others.
        assigned: names of buffers to which `forward` assigns; copies into them are the last of the graph's copies.
    """

    graph: fx.Graph
    sources: dict[str, Source]
    constants: dict[str, torch.Tensor]
    inputs: dict[str, torch.Tensor]
    fixed: dict[str, Any]
    outputs: list[str]
    template: Template
    leaves: list[Any]
    loss: int | None
    training: bool
    conditions: list[Any]
    more_sizes: dict[str, Callable[[dict[str, int]], int]] = dataclasses.field(default_factory=dict)
    assigned: list[str] = dataclasses.field(default_factory=list)

    @property
    def row_symbols(self) -> set[str]:
        """The symbols of the batch's number of rows; empty where the model takes one number only."""
        fakes = [fake for fake in self.inputs.values() if fake.dim()]
        return symbols_of_size(fakes[0].shape[0], [fake.shape[0] for fake in fakes]) if fakes else set()

    def all_leaves(self, tensors: Sequence[Any]) -> list[Any]:
        """The leaves that `trees.rebuild` takes for the output."""
        return with_tensors(self.leaves, tensors)


def capture(
    model: nn.Module, batch: Mapping[str, Any], *, training: bool = True, loss_fn: LossFunction | None = None
) -> Captured:
    """Captures `model(**batch)`, and `loss_fn(output, batch)` if there is one; the model gets of the batch what its
    `forward` names then.

    Args:
        model: on any device. Neither its parameters nor its mode are changed.
        batch: what the model is called with; of its tensors, only shapes and dtypes matter.
        training: capture the computation of training mode, or of evaluation.
        loss_fn: computes the loss; else it is the output's `loss`.

    Raises:
        CaptureError: with the operation, the line of source and what to do.
    """
    flat = flatten(dict(batch))
    call = _Call(model, flat, loss_fn)
    tensors = _examples([leaf for leaf in flat.leaves if isinstance(leaf, torch.Tensor)])
    if training:
        refuse_backward_hooks(model)
    with _in_mode(model, training), _without_cache(model), experts_marked(model):
        exported = _export(call, model, tensors)
        if changed := call.changed:
            _check_second_call(call, model, tensors, changed)
    for node in exported.graph.nodes:
        if depends_on_values(node.meta.get("val")):
            raise explain_sizes_of_values(node, model)
    names = canonical_names(model)
    paths = [path for path, leaf in zip(flat.paths, flat.leaves, strict=True) if isinstance(leaf, torch.Tensor)]
    sources: dict[str, Source] = {}
    constants: dict[str, torch.Tensor] = {}
    inputs: dict[str, torch.Tensor] = {}
    remaining = iter(paths)
    for node, (kind, target) in exported.placeholders.items():
        if kind == "input":
            target = next(remaining)
            inputs[target] = node.meta["val"]
        elif kind == "constant":
            constants[target] = exported.constants[target]
        else:
            target = names[target.removeprefix("model.")]
        sources[node.name] = Source(kind, target)  # type: ignore[arg-type]
    return Captured(
        graph=exported.graph,
        sources=sources,
        constants=constants,
        inputs=inputs,
        fixed={
            path: leaf for path, leaf in zip(flat.paths, flat.leaves, strict=True) if not isinstance(leaf, torch.Tensor)
        },
        outputs=call.outputs,
        template=call.template,
        leaves=call.leaves,
        loss=call.loss,
        training=training,
        conditions=size_conditions(inputs.values()),
        assigned=[names[name] for name in call.assigned],
    )


def _export(module: nn.Module, model: nn.Module, tensors: list[torch.Tensor]) -> ExportedGraph:
    """Exports a module that calls the model; what that changes in the model is put back."""
    attributes, functions = Attributes(model), KeptFunctions()
    hooks = tensor_hooks_refused() if model.training else contextlib.nullcontext()
    try:
        with functions.kept(), hooks:
            exported = export_graph(module, tensors, _dynamic_dimensions)
    except Exception as error:  # torch.export raises anything, its own internal errors too
        raise explain_failure(error, model) from error
    finally:
        attributes.put_back()
    functions.restore(exported.graph)
    return exported


def _check_second_call(call: _Call, model: nn.Module, tensors: list[torch.Tensor], changed: list[str]) -> None:
    """Raises CaptureError if calls of a model differ because of what `forward` changes."""
    calls = TwoCalls(model, call.results_and_rest)
    try:
        same = calls.are_same(_export(calls, model, tensors))
    except CaptureError as error:
        raise CaptureError(f"{explain_changes(changed, model)}\n  (a second call: {error})") from error
    if not same:
        raise explain_changes(changed, model)


def canonical_names(model: nn.Module) -> dict[str, str]:
    """From each name of a parameter or buffer to the first name of the same tensor: tied ones have several."""
    first: dict[int, str] = {}
    names = {}
    for named in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)):
        for name, tensor in named:
            names[name] = first.setdefault(id(tensor), name)
    return names


class _Call(nn.Module):
    """The model as a function of a flat list of tensors, to a flat list of tensors."""

    outputs: list[str]
    template: Template
    leaves: list[Any]
    loss: int | None
    changed: list[str]
    assigned: list[str]

    def __init__(self, model: nn.Module, batch: Flat, loss_fn: LossFunction | None) -> None:
        super().__init__()
        self.model = model
        self._batch = batch
        self._loss_fn = loss_fn

    def forward(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        attributes, buffers = Attributes(self.model), Buffers(self.model)
        try:
            results, _ = self.results_and_rest(tensors)
            self.assigned = buffers.write_assigned()
            self.changed = attributes.changed()
        finally:
            attributes.put_back()  # before torch.export finds and warns of it
        return results

    def results_and_rest(self, tensors: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[Any]]:
        """The tensors that the model gives, and what else."""
        batch = rebuild(self._batch.template, with_tensors(self._batch.leaves, tensors))
        with draws_refused():
            output = self.model(**self._arguments(batch))
            loss = find_loss(output) if self._loss_fn is None else self._loss_fn(output, batch)
        results = self._flat(output, loss)
        return results, [self.outputs, [None if isinstance(leaf, torch.Tensor) else leaf for leaf in self.leaves]]

    def _arguments(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the model takes of a batch: all of it, unless a `loss_fn` is there to take the rest."""
        taken = inspect.signature(self.model.forward).parameters
        if self._loss_fn is None or any(one.kind is one.VAR_KEYWORD for one in taken.values()):
            return batch
        return {name: value for name, value in batch.items() if name in taken}

    def _flat(self, output: Any, loss: torch.Tensor | None) -> list[torch.Tensor]:
        flat = flatten(output)
        # What is neither a tensor nor plain (a cache of keys and values) is nothing that a graph could give.
        plain = [leaf if isinstance(leaf, torch.Tensor | int | float | str | None) else None for leaf in flat.leaves]
        tensors = [leaf for leaf in plain if isinstance(leaf, torch.Tensor)]
        self.outputs = [path for path, leaf in zip(flat.paths, plain, strict=True) if isinstance(leaf, torch.Tensor)]
        self.template, self.leaves = flat.template, plain
        self.loss = next((i for i, tensor in enumerate(tensors) if tensor is loss), None)
        if loss is not None and self.loss is None:
            self.loss = len(tensors)
            self.outputs.append("loss")
            tensors.append(loss)
        return tensors


def find_loss(output: Any) -> torch.Tensor | None:
    """The loss in a model's output: its `loss`, or the first of a tuple if that has one element."""
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if loss is None and isinstance(output, tuple) and output:
        loss = output[0]
    return loss if isinstance(loss, torch.Tensor) and loss.numel() == 1 else None


def _examples(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Tensors of their own; with two rows where the batch, which is the first dimension of the first, has one."""
    rows = next((tensor.shape[0] for tensor in tensors if tensor.dim()), None)
    return [
        torch.cat([tensor, tensor]) if rows == 1 and tensor.dim() and tensor.shape[0] == 1 else tensor.clone()
        for tensor in map(torch.Tensor.detach, tensors)
    ]


def _dynamic_dimensions(tensor: torch.Tensor) -> list[int]:
    integers = not (tensor.is_floating_point() or tensor.is_complex())
    return [dim for dim in range(tensor.dim()) if (dim == 0 or integers) and tensor.shape[dim] > 1]


@contextlib.contextmanager
def _in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Training or evaluation mode as `model.train(training)` sets it, and every module's own mode again after."""
    modes = [(module, module.training) for module in model.modules()]
    if model.training != training:
        model.train(training)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def _without_cache(model: nn.Module) -> Iterator[None]:
    """Hugging Face's configurations, those of parts too, with `use_cache` off."""
    configs = {id(config): config for module in model.modules() if (config := getattr(module, "config", None))}
    on = [config for config in configs.values() if getattr(config, "use_cache", None) is True]
    for config in on:
        config.use_cache = False
    try:
        yield
    finally:
        for config in on:
            config.use_cache = True


__all__ = ["CaptureError", "Captured", "LossFunction", "Source", "canonical_names", "capture", "find_loss"]
