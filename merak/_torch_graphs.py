"""Graphs, sizes and fake tensors of torch, as far as torch calls them private; the rest of it is `_torch_compat`."""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "ExportedGraph",
    "TorchDispatchMode",
    "backward_hooks",
    "bind_symbols",
    "depends_on_values",
    "equal_sizes",
    "evaluate_size",
    "export_graph",
    "fake_as",
    "fake_mode",
    "fakes_of",
    "formula_of",
    "holds",
    "inside_functorch",
    "is_fake",
    "memory_of",
    "new_symbol",
    "size_conditions",
    "size_hint",
    "symbol_names",
    "symbols_of_size",
    "trying_fakes",
]


class ExportedGraph(NamedTuple):
    """What torch.export made: the flat graph, what its placeholders stand for, and lifted constants by target."""

    graph: fx.Graph
    placeholders: dict[fx.Node, tuple[str, str]]
    constants: dict[str, torch.Tensor]


_PLACEHOLDER_KINDS = {
    "PARAMETER": "parameter",
    "BUFFER": "buffer",
    "CONSTANT_TENSOR": "constant",
    "USER_INPUT": "input",
}


def export_graph(
    module: torch.nn.Module, tensors: list[torch.Tensor], dynamic_dimensions: Callable[[torch.Tensor], list[int]]
) -> ExportedGraph:
    """Exports `module(tensors)`, with those dimensions as symbols where the module's code lets them be."""
    dynamic = [dict.fromkeys(dynamic_dimensions(tensor), torch.export.Dim.AUTO) for tensor in tensors]
    on_meta = any(parameter.is_meta for parameter in module.parameters())
    if on_meta:  # then all is traced there, and moved in the end: operations do not mix devices
        device = tensors[0].device if tensors else torch.device("cpu")
        tensors = [tensor.to("meta") for tensor in tensors]
    with _silent_if_it_fails():
        exported = torch.export.export(module, (tensors,), strict=False, dynamic_shapes=(dynamic,))
    graph = exported.graph_module.graph
    if on_meta:
        _move_from_meta(graph, device)
    specs = exported.graph_signature.input_specs
    nodes = [node for node in graph.nodes if node.op == "placeholder"]
    placeholders = {}
    for node, spec in zip(nodes, specs, strict=True):
        kind = _PLACEHOLDER_KINDS.get(spec.kind.name)
        if kind is None:
            raise RuntimeError(f"torch.export made an input of kind {spec.kind.name}, which merak does not know")
        placeholders[node] = (kind, spec.target or "")
    return ExportedGraph(graph, placeholders, dict(exported.constants))


@contextlib.contextmanager
def _silent_if_it_fails() -> Iterator[None]:
    """Holds back what torch logs of an export until that is made. Of one that fails, the exception says all that a user
    can make use of; torch logs tracebacks of its own with it, and prints the graph that it had so far."""
    held: list[tuple[logging.Handler, logging.LogRecord]] = []
    filters = {handler: _holding(held, handler) for handler in _handlers_of_torch()}
    for handler, hold in filters.items():
        handler.addFilter(hold)
    tracing = importlib.import_module("torch.export._trace")
    vars(tracing)["print"] = lambda *_, **__: None
    try:
        yield
    except BaseException:
        held.clear()
        raise
    finally:
        del vars(tracing)["print"]
        for handler, hold in filters.items():
            handler.removeFilter(hold)
        for handler, record in held:
            handler.handle(record)


def _holding(
    held: list[tuple[logging.Handler, logging.LogRecord]], handler: logging.Handler
) -> Callable[[logging.LogRecord], bool]:
    def hold(record: logging.LogRecord) -> bool:
        held.append((handler, record))
        return False

    return hold


def _handlers_of_torch() -> set[logging.Handler]:
    """Those of the loggers that take part in an export."""
    parts = ("torch._dynamo", "torch._export", "torch._subclasses", "torch.export", "torch.fx")
    loggers = [
        one for name, one in logging.root.manager.loggerDict.items() if name == "torch" or name.startswith(parts)
    ]
    return {handler for one in loggers if isinstance(one, logging.Logger) for handler in one.handlers}


def _move_from_meta(graph: fx.Graph, device: torch.device) -> None:
    """Makes a graph that was captured on meta one of that device."""

    def moved(argument: object) -> object:
        return device if isinstance(argument, torch.device) and argument.type == "meta" else argument

    for node in graph.nodes:
        node.args = tuple(moved(argument) for argument in node.args)
        node.kwargs = {key: moved(argument) for key, argument in node.kwargs.items()}
        value = node.meta.get("val")
        many = isinstance(value, list | tuple)
        node.meta["val"] = [_moved_value(one, device) for one in value] if many else _moved_value(value, device)


def _moved_value(value: object, device: torch.device) -> object:
    if not isinstance(value, FakeTensor):
        return value
    with value.fake_mode:
        return value.to(device)


def bind_symbols(fake: torch.Tensor, real: torch.Tensor, bindings: dict[str, int]) -> list[str]:
    """Binds the symbols in a fake tensor's shape to the sizes of a real one; what does not fit, in words."""
    misfits = []
    for dim, (wanted, size) in enumerate(zip(fake.shape, real.shape, strict=True)):
        if isinstance(wanted, int):
            if wanted != size:
                misfits.append(f"dimension {dim} is {size} and must be {wanted}")
            continue
        expression = wanted.node.expr
        if expression.is_Symbol and bindings.setdefault(expression.name, size) != size:
            misfits.append(f"dimension {dim} is {size} where another input has {bindings[expression.name]}")
    return misfits


def size_conditions(fakes: Iterable[torch.Tensor]) -> list[Any]:
    """What the export of these fake tensors' graph found to be true of their sizes and took for granted since: that
    sizes are equal, and what a module's own code, or torch's Python, asked. Else, what operations ask they ask again
    when they run."""
    found = []
    for environment in {id(fake.fake_mode.shape_env): fake.fake_mode.shape_env for fake in fakes}.values():  # type: ignore[attr-defined]
        for guard in environment.guards if environment else ():
            place = getattr(guard.sloc.framework_loc, "filename", "") or ""
            equal = getattr(guard.expr, "rel_op", "") == "=="
            if equal or "/torch/nn/" in place or "/torch/" not in place:
                found.append(guard.expr.xreplace(environment.replacements))
    return found


def holds(condition: Any, bindings: dict[str, int]) -> bool:
    """Whether one of `size_conditions` is true; so is one of sizes that are not known."""
    symbols = condition.free_symbols
    if not all(symbol.name in bindings for symbol in symbols):
        return True
    return bool(condition.xreplace({symbol: bindings[symbol.name] for symbol in symbols}))


def equal_sizes(conditions: Iterable[Any]) -> list[tuple[set[str], set[str]]]:
    """Of sizes that `size_conditions` says are equal: the symbols in each."""
    equalities = [condition for condition in conditions if getattr(condition, "rel_op", "") == "=="]
    return [
        ({one.name for one in equality.lhs.free_symbols}, {one.name for one in equality.rhs.free_symbols})
        for equality in equalities
    ]


def symbol_names(size: torch.SymInt) -> list[str]:
    """The symbols in a size, sorted."""
    return sorted(symbol.name for symbol in size.node.expr.free_symbols)


def symbols_of_size(size: int | torch.SymInt, sizes: Iterable[int | torch.SymInt]) -> set[str]:
    """Names of the symbols in those of the sizes that were `size` in the example."""
    return {
        symbol.name
        for one in sizes
        if not isinstance(one, int) and _in_example(one) == _in_example(size)
        for symbol in one.node.expr.free_symbols
    }


def _in_example(size: int | torch.SymInt) -> int:
    return size if isinstance(size, int) else int(size.node.hint or 0)


def depends_on_values(value: Any) -> bool:
    """Whether a fake tensor's shape, or a number, follows from values in a tensor and not from sizes alone."""
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

    return bool(free_unbacked_symbols(value))


def memory_of(fake: torch.Tensor) -> int:
    """A number that fake tensors have in common if they share memory."""
    return int(fake.untyped_storage()._cdata)


def evaluate_size(size: int | torch.SymInt, bindings: dict[str, int]) -> int:
    """A dimension of a fake tensor, given what the symbols in it stand for."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.xreplace({symbol: bindings[symbol.name] for symbol in expression.free_symbols}))


def formula_of(size: torch.SymInt) -> Callable[[Mapping[str, int]], int]:
    """A size as a function of what its symbols stand for. They keep the names that `symbol_names` says now, also where
    torch finds symbols to be equal later, and knows one by the name of the other from then on."""
    expression = size.node.expr
    symbols = list(expression.free_symbols)
    return lambda bindings: int(expression.xreplace({symbol: bindings[symbol.name] for symbol in symbols}))


def new_symbol(like: torch.SymInt, example: int) -> Any:
    """A size of its own, in the same shapes' environment."""
    environment: Any = like.node.shape_env
    source = ConstantSource(f"merak_size_{len(environment.backed_var_to_val)}")
    symbol = environment.create_symbol(example, source, DimDynamic.DYNAMIC)
    return environment.create_symintnode(symbol, hint=example, source=source)


def size_hint(size: int | torch.SymInt) -> int:
    """What a size, or a stride, was in the example."""
    return size if isinstance(size, int) else int(str(size.node.hint))


def fake_mode() -> contextlib.AbstractContextManager[object]:
    """Tensors that are made within have shapes and no data."""
    return FakeTensorMode()


@contextlib.contextmanager
def trying_fakes() -> Iterator[None]:
    """What operations raise of fake tensors is not logged: within, that is an answer."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = was_disabled


@contextlib.contextmanager
def fakes_of(fakes: Iterable[torch.Tensor]) -> Iterator[None]:
    """Tensors that are made within are fake like these, and their sizes may be in the same symbols."""
    mode = next((fake.fake_mode for fake in fakes if isinstance(fake, FakeTensor)), None)
    with FakeTensorMode() if mode is None else mode, enable_python_dispatcher():
        yield


def is_fake(tensor: torch.Tensor) -> bool:
    """Whether a tensor has a shape and no data."""
    return isinstance(tensor, FakeTensor)


def fake_as(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A fake tensor with another dtype."""
    if not isinstance(tensor, FakeTensor):
        return tensor.to(dtype)
    with tensor.fake_mode:
        return tensor.to(dtype)


def inside_functorch() -> bool:
    """Whether a transform of `torch.func`, such as `vmap`, is at work."""
    return bool(torch._C._are_functorch_transforms_active())


def backward_hooks(hooked: torch.nn.Module | torch.Tensor | None) -> bool:
    """Whether a module, a parameter, or every module (None), has hooks that run in the backward."""
    if hooked is None:
        everywhere = torch.nn.modules.module
        return bool(everywhere._global_backward_hooks or everywhere._global_backward_pre_hooks)
    if isinstance(hooked, torch.Tensor):
        return bool(hooked._backward_hooks or hooked._post_accumulate_grad_hooks)
    return bool(hooked._backward_hooks or hooked._backward_pre_hooks)
