"""Everything that depends on which torch is installed, or that torch calls private.

A new torch should break this file and no other.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from torch import fx
from torch._C._distributed_c10d import AllgatherOptions, GradBucket, PrefixStore, ProcessGroup, Store, TCPStore
from torch._C._distributed_c10d import Backend as C10dBackend
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.pipelining import PipelineStage
    from torch.distributed.pipelining.schedules import PipelineScheduleMulti
    from torch.distributed.tensor import DTensor, Placement

__all__ = [
    "C10dBackend",
    "ExportedGraph",
    "GradBucket",
    "ProcessGroup",
    "Store",
    "TorchDispatchMode",
    "all_gather",
    "backend_below",
    "backward_hooks",
    "bind_symbols",
    "check_torch_matches_build",
    "default_store",
    "depends_on_values",
    "end_group",
    "equal_sizes",
    "evaluate_size",
    "export_graph",
    "fake_as",
    "fake_mode",
    "group_by_name",
    "holds",
    "inside_functorch",
    "local_of",
    "make_dtensor",
    "make_nccl_backend",
    "memory_of",
    "name_in_use",
    "pipeline_runtime",
    "redistribute_of_dtensor",
    "shard_order",
    "size_conditions",
    "size_hint",
    "split_factor",
    "store_host",
    "strided_shard",
    "symbol_names",
    "symbols_of_size",
    "timeout_of",
    "torch_minor",
]


def torch_minor() -> str:
    """The installed torch as "major.minor", for example "2.15"."""
    return ".".join(torch.__version__.split(".")[:2])


def check_torch_matches_build() -> None:
    """Raises ImportError when `merak._C` is missing or was built for another minor version of torch.

    c10d has no stable ABI: a mismatch would crash later, in a place that explains nothing.
    """
    try:
        from merak._build_info import torch_minor as built
    except ImportError:
        raise ImportError(
            "merak's extension module has not been built. In a checkout run `make build`, or "
            "`pip install --no-build-isolation -e .`."
        ) from None
    if built != torch_minor():
        raise ImportError(
            f"merak was built for torch {built}, but torch {torch.__version__} is installed. Run "
            f"`pip install 'torch=={built}.*'` to go back to the torch it was built for, or build it again with "
            "`pip install --no-build-isolation --no-cache-dir --force-reinstall --no-deps torch-merak` "
            "(in a checkout: `make build`)."
        )


def name_in_use(backend_options: object) -> str:
    """Under which name merak serves a group: "merak", or another that was registered for merak's creator.

    Args:
        backend_options: torch's description of the group; where it does not tell (torch 2.11), the name is "merak".
    """
    group: ProcessGroup | None = getattr(backend_options, "process_group", None)
    if group is None:
        return "merak"
    backend = dist.distributed_c10d.Backend
    creator = backend._plugins["MERAK"].creator_fn
    names = {name.lower() for name, plugin in backend._plugins.items() if plugin.creator_fn is creator}
    name: str = group.name()
    return name if name in names else "merak"


def store_host(store: Store) -> str | None:
    """Name or address of the host that serves the store, None when the store has none."""
    while isinstance(store, PrefixStore):
        store = store.underlying_store
    if isinstance(store, TCPStore):
        host: str = store.host
        return host
    return os.environ.get("MASTER_ADDR")


def backend_below(group: ProcessGroup | None, device: str) -> C10dBackend:
    """What serves a group's tensors on a device, without torch's wrapper of TORCH_DISTRIBUTED_DEBUG=DETAIL.

    Args:
        group: None for the default group.
    Raises:
        ValueError: there is no such group.
        RuntimeError: the group has no backend for that device.
    """
    found = group if group is not None else dist.distributed_c10d._get_default_group()
    below = found._get_backend(torch.device(device))
    wrapper = getattr(dist.distributed_c10d, "_ProcessGroupWrapper", None)
    return below.wrapped_pg if wrapper is not None and isinstance(below, wrapper) else below


def timeout_of(group: ProcessGroup | None) -> datetime.timedelta | None:
    """How long a group's operations may take (None: those of the default group); None where no backend says."""
    found = group if group is not None else dist.distributed_c10d._get_default_group()
    for device in found._device_types:
        timeout = getattr(getattr(backend_below(found, device.type), "options", None), "_timeout", None)
        if isinstance(timeout, datetime.timedelta):
            return timeout
    return None


def end_group(group: ProcessGroup, reason: str) -> None:
    """Fails what is under way in a group, on all its ranks, which are told the reason where the backend can tell them.
    The group is of no use any more."""
    for device in group._device_types:
        with contextlib.suppress(RuntimeError):  # some backends cannot end before their time
            below = backend_below(group, device.type)
            if tell := getattr(below, "end", None):
                tell(reason)
            below.abort()


def all_gather(
    backend: C10dBackend, everyones: torch.Tensor, own: torch.Tensor, timeout: datetime.timedelta
) -> dist.Work:
    """That of equal tensors, on a backend itself. `timeout`: zero for the group's."""
    options = AllgatherOptions()
    if timeout:
        options.timeout = timeout
    started: dist.Work = backend._allgather_base(everyones, own, options)  # type: ignore[attr-defined]
    return started


def make_nccl_backend(
    store: Store, rank: int, size: int, timeout: datetime.timedelta, group: str, options: object
) -> C10dBackend:
    """The backend for the CUDA tensors of one of merak's groups.

    Args:
        options: the user's `pg_options`, used when they are NCCL's.
    Raises:
        ValueError: this torch has no NCCL.
    """
    if not dist.is_nccl_available():
        raise ValueError(
            f"group '{group}' was given tensors on cuda, which merak hands to NCCL, but this torch "
            f"({torch.__version__}) was built without NCCL. Move the tensors to the CPU, or install a torch with CUDA."
        )
    nccl = dist.distributed_c10d.ProcessGroupNCCL
    nccl_options = options if isinstance(options, nccl.Options) else nccl.Options()
    nccl_options._timeout = timeout
    return nccl(PrefixStore("nccl/", store), rank, size, nccl_options)


def shard_order(tensor: DTensor) -> list[tuple[int, tuple[int, ...]]]:
    """By sharded tensor dimension: the mesh dimensions that cut it, in the order in which they do. Empty where that
    is from left to right, as it is unless somebody says otherwise (torch 2.15; older versions know no other order)."""
    spec = tensor._spec
    order = getattr(spec, "shard_order", None)
    if not order or spec.is_default_device_order(order):
        return []
    return [(entry.tensor_dim, tuple(entry.mesh_dims)) for entry in order]


def make_dtensor(
    local: torch.Tensor,
    mesh: DeviceMesh,
    placements: Sequence[Placement],
    shape: torch.Size,
    requires_grad: bool = False,
) -> DTensor:
    """A DTensor of this shape, contiguous, around what this rank has of it; nothing of `local` is checked or copied."""
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta

    stride = torch.empty(shape, device="meta").stride()
    spec = DTensorSpec(mesh, tuple(placements), tensor_meta=TensorMeta(shape, stride, local.dtype))
    return DTensor(local, spec, requires_grad=requires_grad)


def local_of(tensor: DTensor) -> torch.Tensor:
    """What this rank has of a DTensor, without a gradient; a result of DTensor's that is still on its way is waited
    for."""
    local = tensor._local_tensor.detach()
    wait = getattr(local, "wait", None)
    return local if wait is None else wait()


def redistribute_of_dtensor() -> Callable[..., DTensor]:
    """`DTensor.redistribute` as it is now."""
    from torch.distributed.tensor import DTensor

    return DTensor.redistribute


def default_store() -> Store:
    """The store of the default group."""
    store: Store = dist.distributed_c10d._get_default_store()
    return store


def strided_shard(dim: int, factor: int) -> Placement:
    """torch's placement for a dimension in `factor` pieces, each of which is sharded."""
    from torch.distributed.tensor.placement_types import _StridedShard

    placement: Placement = _StridedShard(dim, split_factor=factor)
    return placement


def split_factor(placement: Placement) -> int | None:
    """That of a strided shard; None of all others."""
    from torch.distributed.tensor.placement_types import _StridedShard

    return int(placement.split_factor) if isinstance(placement, _StridedShard) else None


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


def group_by_name(name: str) -> ProcessGroup:
    """The process group that is registered under a name."""
    group: ProcessGroup = torch._C._distributed_c10d._resolve_process_group(name)  # type: ignore[arg-type]
    return group


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


def pipeline_runtime(
    rows: Sequence[Sequence[str]],
    stages: list[PipelineStage],
    n_microbatches: int,
    loss_fn: Callable[..., torch.Tensor] | None,
    options: Mapping[str, Any],
) -> PipelineScheduleMulti:
    """torch's own runtime of pipeline schedules, with an order of computing from elsewhere; torch adds communication.

    Args:
        rows: by rank, the actions as torch writes them.
        stages: this rank's.
        options: what torch's multi-stage schedules take as well.
    """
    from torch.distributed.pipelining.schedules import _Action, _PipelineScheduleRuntime

    runtime = _PipelineScheduleRuntime(stages, n_microbatches, loss_fn=loss_fn, **options)
    runtime.pipeline_order = {rank: [_Action.from_str(text) for text in row] for rank, row in enumerate(rows)}
    runtime._prepare_schedule_with_comms(runtime.pipeline_order)
    return runtime


def size_hint(size: int | torch.SymInt) -> int:
    """What a size, or a stride, was in the example."""
    return size if isinstance(size, int) else int(str(size.node.hint))


def fake_mode() -> contextlib.AbstractContextManager[object]:
    """Tensors that are made within have shapes and no data."""
    return FakeTensorMode()


def fake_as(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A fake tensor with another dtype."""
    if not isinstance(tensor, FakeTensor):
        return tensor.to(dtype)
    with tensor.fake_mode:
        return tensor.to(dtype)


def inside_functorch() -> bool:
    """Whether a transform of `torch.func`, such as `vmap`, is at work."""
    return bool(torch._C._are_functorch_transforms_active())


def backward_hooks(module: torch.nn.Module | None) -> bool:
    """Whether a module, or every module (None), has hooks that run in its backward."""
    if module is None:
        everywhere = torch.nn.modules.module
        return bool(everywhere._global_backward_hooks or everywhere._global_backward_pre_hooks)
    return bool(module._backward_hooks or module._backward_pre_hooks)
