"""Users' own `torch.autograd.Function`s, which stay what they are in a captured graph.

torch.export would trace through the `forward` of such a Function, and autograd would differentiate that: a rounding
whose `backward` passes gradients on would get none. So a call becomes one operation of the graph, which calls the
Function's own `apply` when it runs. What the graph does not see must not matter to it: a Function that writes to its
arguments, or that uses tensors which it is not given, is refused. Random numbers are seeded as everywhere.

Functions of torch's are traced as ever, but for `checkpoint`'s: what that is to run again runs as if it were not there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal, NoReturn

import torch
from torch import fx, nn
from torch.utils.checkpoint import CheckpointFunction

from merak._torch_graphs import TorchDispatchMode, inside_functorch, memory_of
from merak.graph.errors import CaptureError
from merak.graph.randomness import SeededCall, region_of
from merak.graph.trees import Flat, flatten, rebuild

_library = torch.library.Library("merak", "FRAGMENT")
_library.define("autograd_function(int call, Tensor?[] tensors, Scalar[] numbers) -> Tensor[]")
_PLAIN = int | float | str | None
_REMEDY = (
    "Write it with differentiable operations and `detach` (a rounding that passes gradients on is "
    "`x + (round(x) - x).detach()`), or make a `torch.library.custom_op` with `register_autograd` of it"
)

Kind = Literal["tensor", "number", "fixed"]


class FunctionCall:
    """A call of a Function. Called by graphs: with its tensors and numbers, for a list of the tensors that it gives."""

    def __init__(self, function: type[torch.autograd.Function], given: Flat) -> None:
        self.function, self._given = function, given
        self._kinds = [_kind(leaf) for leaf in given.leaves]
        self.fixed = [leaf for leaf, kind in zip(given.leaves, self._kinds, strict=True) if kind == "fixed"]
        self.result: Flat | None = None
        self.is_random = False
        # What torch.fx names it by in the code that it writes.
        self.__name__ = f"apply_{function.__name__}"
        self.__module__ = __name__

    def __call__(self, /, *given: Any) -> list[torch.Tensor]:
        return _tensors(self.run(list(given)))

    def run(self, given: list[Any]) -> Any:
        """What the Function gives for these tensors, and numbers behind them."""
        tensors, fixed = iter(given), iter(self.fixed)
        numbers = iter(given[self._kinds.count("tensor") :])
        each = {"tensor": tensors, "number": numbers, "fixed": fixed}
        args, kwargs = rebuild(self._given.template, [next(each[kind]) for kind in self._kinds])
        return _apply_of(self.function)(*args, **kwargs)

    def leaves(self, kind: Kind) -> list[Any]:
        """Those of its arguments, as captured."""
        return [leaf for leaf, own in zip(self._given.leaves, self._kinds, strict=True) if own == kind]


class KeptFunctions:
    """The calls of users' Functions in one capture, by number."""

    _current: ClassVar[KeptFunctions | None] = None

    def __init__(self) -> None:
        self._calls: list[FunctionCall] = []
        self._apply: Any = None

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Calls within become operations of the graph that is being captured."""
        original = torch.autograd.Function.__dict__["apply"]
        KeptFunctions._current, before = self, KeptFunctions._current
        self._apply = original

        def apply(function: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
            return self._capture(function, args, kwargs)

        torch.autograd.Function.apply = classmethod(apply)
        try:
            yield
        finally:
            torch.autograd.Function.apply = original
            KeptFunctions._current = before

    def restore(self, graph: fx.Graph, prefix: str = "") -> None:
        """Makes the operations what is to run: the Functions. In regions (autocast) too."""
        for node in graph.nodes:
            if (region := region_of(node)) is not None:
                self.restore(region.graph, f"{prefix}{node.name}.")
                region.recompile()
            elif node.target is torch.ops.merak.autograd_function.default:
                number, tensors, numbers = node.args
                call = self._calls[number]
                node.target = SeededCall(call, prefix + node.name) if call.is_random else call
                node.args = (*tensors, *numbers)

    def run(self, number: int, given: list[Any]) -> list[torch.Tensor]:
        """Runs a call on fake tensors, and finds out what it gives."""
        call = self._calls[number]
        tensors = call.leaves("tensor")
        versions = [tensor._version for tensor in tensors]
        watch = _Watch(tensors)
        try:
            with watch:
                result = call.run(given)
        except Exception as error:
            text = (str(error).strip() or type(error).__name__).splitlines()[0]
            _refuse(call.function, f"fails on tensors without data: {type(error).__name__}: {text}", error)
        if versions != [tensor._version for tensor in tensors]:
            _refuse(call.function, "writes to its arguments, which a graph would not know of")
        if watch.foreign is not None:
            _refuse(
                call.function, f"uses a tensor that is not among its arguments ({watch.foreign}): give it to `apply`"
            )
        call.result, call.is_random = flatten(result), watch.random
        if not all(isinstance(leaf, torch.Tensor | _PLAIN) for leaf in call.result.leaves):
            _refuse(call.function, "gives what is neither a tensor nor a plain number or text")
        return _tensors(result)

    def _capture(self, function: type[torch.autograd.Function], args: Any, kwargs: Any) -> Any:
        if function is CheckpointFunction:
            run, _, *given = args
            return run(*given)
        original = self._apply.__get__(None, function)
        if function.__module__.startswith("torch.") or _Watch.depth:
            return original(*args, **kwargs)
        if inside_functorch():
            _refuse(function, "is called inside `torch.func` or `vmap`, which a graph cannot keep")
        call = FunctionCall(function, flatten((args, kwargs)))
        if any(isinstance(getattr(leaf, "__self__", leaf), nn.Module) for leaf in call.fixed):
            _refuse(function, "is given a module, whose parameters a graph would not know of: give them to `apply`")
        self._calls.append(call)
        operation = torch.ops.merak.autograd_function.default
        tensors = iter(operation(len(self._calls) - 1, call.leaves("tensor"), call.leaves("number")))
        assert call.result is not None
        leaves = [next(tensors) if isinstance(leaf, torch.Tensor) else leaf for leaf in call.result.leaves]
        return rebuild(call.result.template, leaves)


class _Watch(TorchDispatchMode):
    """Sees what runs within a Function: tensors from elsewhere, random numbers."""

    depth: ClassVar[int] = 0

    def __init__(self, given: list[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen = list(given)  # kept alive, so that no other tensor gets their memory
        self._known = {memory_of(tensor) for tensor in given}
        self.foreign: str | None = None
        self.random = False

    def __enter__(self) -> _Watch:
        _Watch.depth += 1
        return super().__enter__()  # type: ignore[no-any-return, no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        _Watch.depth -= 1
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = _tensors((args, kwargs or {}))
        # A literal such as torch.tensor(2.0) begins its life outside.
        if func is not torch.ops.aten.lift_fresh.default and any(memory_of(one) not in self._known for one in given):
            self.foreign = self.foreign or str(func)
        self.random |= torch.Tag.nondeterministic_seeded in func.tags
        result = func(*args, **(kwargs or {}))
        self._seen += _tensors(result)
        self._known |= {memory_of(tensor) for tensor in _tensors(result)}
        return result


def _run(number: int, tensors: list[torch.Tensor], numbers: list[Any]) -> list[torch.Tensor]:
    assert KeptFunctions._current is not None
    return KeptFunctions._current.run(number, [*tensors, *numbers])


_library.impl("autograd_function", _run, "CompositeImplicitAutograd")


def _apply_of(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """Function's own `apply`: a class that has another calls that with other arguments."""
    bound: Callable[..., Any] = torch.autograd.Function.__dict__["apply"].__get__(None, function)
    return bound


def _refuse(function: type, why: str, cause: Exception | None = None) -> NoReturn:
    name = f"{function.__module__}.{function.__qualname__}"
    raise CaptureError(f"the autograd Function {name} {why}. {_REMEDY}") from cause


def _kind(leaf: Any) -> Kind:
    if isinstance(leaf, torch.Tensor):
        return "tensor"
    return "number" if isinstance(leaf, torch.SymInt | torch.SymFloat | torch.SymBool) else "fixed"


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in flatten(value).leaves if isinstance(leaf, torch.Tensor)]
