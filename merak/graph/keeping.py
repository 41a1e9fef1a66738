"""Results that stay although their stage recomputes: products of matrices, say, which take long to compute again.

A *kept* operation runs once. What the kernels within it make is noted down in the forward. When the stage runs again,
autograd goes through the operation as ever, and each kernel below it is handed what it made the first time: the graph
is that of a full run, for the price of the bytes that were kept. Views and changes of dtype (autocast's) are not kept,
but made again; so is what is written to in place, by the operation itself or by a later one.

PyTorch chooses kernels by whether gradients are wanted. So the first run has a graph too, which is dropped at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
from torch import fx

from merak._torch_graphs import TorchDispatchMode
from merak.graph.errors import CaptureError
from merak.graph.normal_form import AliasGroups

_CHEAP = {torch.ops.aten._to_copy.default}


class Kept:
    """What the kept operations of a forward have made, until they run again."""

    _recording: ClassVar[Kept | None] = None
    _replaying: ClassVar[Kept | None] = None

    def __init__(self) -> None:
        self._of: dict[str, list[_Made]] = {}

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Kept operations within are noted down."""
        Kept._recording, before = self, Kept._recording
        try:
            yield
        finally:
            Kept._recording = before

    @contextlib.contextmanager
    def replaying(self) -> Iterator[None]:
        """Kept operations within give what they gave before; that is handed over, and no longer kept here."""
        Kept._replaying, before = self, Kept._replaying
        try:
            yield
        finally:
            Kept._replaying = before

    def tensors(self, name: str) -> list[torch.Tensor]:
        """What is kept of an operation."""
        return [tensor for made in self._of.get(name, ()) for tensor in made.tensors]

    def record(self, name: str, call: Callable[[], Any]) -> Any:
        """Runs an operation with a graph, and keeps what it makes."""
        self._of[name] = []
        with torch.enable_grad(), _Recording(self._of[name]):
            result = call()
        if any(made.was_written_to() for made in self._of[name]):
            del self._of[name]
        return result

    def replay(self, name: str, call: Callable[[], Any]) -> Any:
        """Runs an operation again, but for its kernels."""
        if name not in self._of:
            return call()
        with _Replaying(self._of.pop(name)):
            return call()


class KeptCall:
    """A kept operation. Called by graphs, in place of the operation.

    Args:
        gradients: the form of the arguments, with whether each gets a gradient in place of the tensors.
    """

    def __init__(self, operation: Any, name: str, gradients: tuple[Any, Any]) -> None:
        self.operation, self._name, self._gradients = operation, name, gradients
        # What torch.fx names it by in the code that it writes.
        self.__name__ = f"kept_{getattr(operation, '__name__', 'call').split('.')[0]}"
        self.__module__ = __name__

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        if Kept._replaying is not None:
            return Kept._replaying.replay(self._name, lambda: self.operation(*args, **kwargs))
        if Kept._recording is not None:
            args, kwargs = _with_gradients((args, kwargs), self._gradients)
            return _alias(Kept._recording.record(self._name, lambda: self.operation(*args, **kwargs)))
        return self.operation(*args, **kwargs)


def kept_call(node: fx.Node, gradients: set[fx.Node]) -> KeptCall:
    """What a kept node calls; `gradients` are the nodes that get some."""
    form = fx.map_arg((node.args, dict(node.kwargs)), lambda one: one in gradients)
    return KeptCall(node.target, node.name, form)


def kept_nodes(nodes: Sequence[fx.Node], groups: AliasGroups, patterns: Sequence[str]) -> set[fx.Node]:
    """The operations that patterns name: by node (`linear_3`), by operation (`aten.linear`, `aten.*mm`), by module.
    Those whose results are written to later cannot be kept, and are left out.

    Raises:
        CaptureError: a pattern names nothing that can be kept: an operation that does not change its arguments.
    """
    found: set[fx.Node] = set()
    for pattern in patterns:
        named = [node for node in nodes if _may_be_kept(node) and _is_named(node, pattern)]
        if not named:
            known = sorted({str(_operation(node)) for node in nodes if _may_be_kept(node)})
            raise CaptureError(f"keep names {pattern!r}, and nothing is called so; operations are {', '.join(known)}")
        found |= {node for node in named if groups.root[node] not in groups.writers}
    return found


def _is_named(node: fx.Node, pattern: str) -> bool:
    operation = _operation(node)
    modules = [str(path).removeprefix("model.") for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    packet = str(operation).rpartition(".")[0]
    return any(fnmatchcase(name, pattern) for name in (node.name, str(operation), packet, *modules))


def _may_be_kept(node: fx.Node) -> bool:
    schema = getattr(_operation(node), "_schema", None)
    return node.op == "call_function" and schema is not None and not schema.is_mutable


def _operation(node: fx.Node) -> Any:
    return getattr(node.target, "operation", node.target)  # what a seeded call calls


class _Made:
    """What a kernel has made."""

    def __init__(self, kernel: Any, result: Any) -> None:
        self.kernel, self.result = kernel, result
        self.tensors = _tensors(result)
        self._versions = [tensor._version for tensor in self.tensors]

    def was_written_to(self) -> bool:
        """Whether it is no longer what the kernel has made."""
        return self._versions != [tensor._version for tensor in self.tensors]


class _Recording(TorchDispatchMode):
    def __init__(self, made: list[_Made]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._made = made

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if _is_kept(func):
            self._made.append(_Made(func, _alias(result)))
        return result


class _Replaying(TorchDispatchMode):
    def __init__(self, made: list[_Made]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._made = iter(made)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not _is_kept(func):
            return func(*args, **(kwargs or {}))
        made = next(self._made, None)
        if made is None or made.kernel is not func:
            self._made = iter(())  # another layout of an argument asks for other kernels: from here on they run
            return func(*args, **(kwargs or {}))
        return _alias(made.result)  # autograd marks what it is given


def _is_kept(operation: Any) -> bool:
    schema = operation._schema
    aliases = any(one.alias_info is not None for one in schema.returns)
    return operation not in _CHEAP and not schema.is_mutable and not aliases


def _alias(result: Any) -> Any:
    if isinstance(result, list | tuple):
        return type(result)(map(_alias, result))
    return result.detach() if isinstance(result, torch.Tensor) else result


def _with_gradients(given: Any, gradients: Any) -> Any:
    """Arguments as they will be when the stage runs again: those that get gradients say so. In an own alias."""
    if isinstance(given, list | tuple):
        return type(given)(_with_gradients(one, wanted) for one, wanted in zip(given, gradients, strict=True))
    if isinstance(given, dict):
        return {key: _with_gradients(one, gradients[key]) for key, one in given.items()}
    return given.detach().requires_grad_() if gradients is True and isinstance(given, torch.Tensor) else given


def _tensors(result: Any) -> list[torch.Tensor]:
    results = result if isinstance(result, list | tuple) else [result]
    return [one for one in results if isinstance(one, torch.Tensor)]
