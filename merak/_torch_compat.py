"""Everything that depends on which torch is installed, or that torch calls private, but for graphs (`_torch_graphs`).

A new torch should break this file and no other.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import AllgatherOptions, GradBucket, PrefixStore, ProcessGroup, Store, TCPStore
from torch._C._distributed_c10d import Backend as C10dBackend

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.pipelining import PipelineStage
    from torch.distributed.pipelining.schedules import PipelineScheduleMulti
    from torch.distributed.tensor import DTensor, Placement

__all__ = [
    "C10dBackend",
    "GradBucket",
    "ProcessGroup",
    "Store",
    "all_gather",
    "autograd_time",
    "backend_below",
    "check_torch_matches_build",
    "default_store",
    "end_group",
    "give_turn",
    "group_by_name",
    "grouped_product",
    "known_by_pieces",
    "local_of",
    "make_dtensor",
    "make_nccl_backend",
    "name_in_use",
    "pipeline_runtime",
    "redistribute_of_dtensor",
    "shard_order",
    "split_factor",
    "store_host",
    "strategies_of_dtensor",
    "strided_shard",
    "timeout_of",
    "torch_minor",
    "unflatten_mesh",
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


def unflatten_mesh(mesh: DeviceMesh, name: str, sizes: Mapping[str, int]) -> DeviceMesh:
    """A mesh with one axis as several, major to minor. Makes their groups: collective over all ranks."""
    made: DeviceMesh = mesh._unflatten(name, tuple(sizes.values()), tuple(sizes))
    return made


def strided_shard(dim: int, factor: int) -> Placement:
    """torch's placement for a dimension in `factor` pieces, each of which is sharded."""
    from torch.distributed.tensor.placement_types import _StridedShard

    placement: Placement = _StridedShard(dim, split_factor=factor)
    return placement


def known_by_pieces(tensor: DTensor, pieces: Sequence[tuple[Sequence[int], Sequence[int], torch.Tensor]]) -> DTensor:
    """Has `torch.distributed.checkpoint` write and read a DTensor piece by piece. What it reckons of the placements of
    a strided shard is one piece that lies elsewhere.

    Args:
        pieces: of what this rank has: where each begins in the whole tensor, its shape, and a view of the local tensor.
    """
    from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
    from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

    chunks = [ChunkStorageMetadata(torch.Size(begin), torch.Size(shape)) for begin, shape, _ in pieces]
    views = {chunk.offsets: view for chunk, (_, _, view) in zip(chunks, pieces, strict=True)}
    properties, size = TensorProperties.create_from_tensor(tensor.to_local()), tensor.size()

    def write_items(name: str, _: object) -> list[WriteItem]:
        return [
            WriteItem(
                index=MetadataIndex(name, chunk.offsets),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(chunk=chunk, properties=properties, size=size),
            )
            for chunk in chunks
        ]

    protocol = {
        "__create_write_items__": write_items,
        "__create_chunk_list__": lambda: chunks,
        "__get_tensor_shard__": lambda index: views[index.offset],
    }
    for name, function in protocol.items():
        setattr(tensor, name, function)
    return tensor


def split_factor(placement: Placement) -> int | None:
    """That of a strided shard; None of all others."""
    from torch.distributed.tensor.placement_types import _StridedShard

    return int(placement.split_factor) if isinstance(placement, _StridedShard) else None


def strategies_of_dtensor(called: torch._ops.OpOverload, args: Sequence[Any]) -> list[list[int | str]]:
    """The ways in which DTensor computes an operation over one axis of a mesh, calling it on local tensors as it is.

    Args:
        args: by position; tensors, fake ones too, or lists of them where the operation takes those.

    Returns:
        Of each way, for all results and then all tensors among the arguments: the dimension that is divided, "whole",
        "sum" of what is partial, or "other". There are none where DTensor knows no rule, or would change other
        arguments (sizes, say).
    """
    from torch.distributed.tensor import DTensor

    dispatcher = DTensor._op_dispatcher
    propagator = dispatcher.sharding_propagator
    tables = [vars(dispatcher).get(name, ()) for name in ("_custom_op_handlers", "_random_ops")]
    tables += [vars(propagator).get(name, ()) for name in _CHANGED_BY_DTENSOR]
    if any(called in table for table in tables):
        return []
    single = vars(propagator).get("op_single_dim_strategy_funcs", {}).get(called)
    strategy = propagator.op_strategy_funcs.get(called)
    try:  # rules raise anything on calls that they do not know
        if single is not None:
            filtered = getattr(single, "full_mesh_strategy_filter", None) is not None
            return [] if filtered else [list(map(_placed, way)) for way in single(called, _metas(args), {})]
        return [] if strategy is None else list(_accepted(called, strategy, args))
    except Exception:
        return []


_CHANGED_BY_DTENSOR = ("op_to_shape_and_stride_idx", "op_to_scalar_shape_adjuster", "squeeze_op_to_dims_variant")
"""Its tables of operations that it calls otherwise on local tensors."""

_MOST_TRIALS = 64


def _placed(placement: object) -> int | str:
    from torch.distributed.tensor import Partial, Replicate, Shard

    if type(placement) is Shard or type(placement).__name__ == "_ShardingPlaceholder":
        return int(placement.dim)  # type: ignore[attr-defined]
    if isinstance(placement, Partial) and placement.reduce_op == "sum" and type(placement) is Partial:
        return "sum"
    return "whole" if isinstance(placement, Replicate) else "other"


def _metas(value: Any) -> Any:
    """A rule's arguments: of tensors their shapes, strides and dtypes."""
    from torch.distributed.tensor._dtensor_spec import TensorMeta

    if isinstance(value, torch.Tensor):
        return TensorMeta(value.shape, value.stride(), value.dtype)
    return tuple(map(_metas, value)) if isinstance(value, list | tuple) else value


def _accepted(called: torch._ops.OpOverload, strategy: Callable[..., Any], args: Sequence[Any]) -> Iterator[Any]:
    """Rules that say what is to be done with given operands: tried with those that are divided in any way."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor._dtensor_spec import DTensorSpec
    from torch.distributed.tensor._op_schema import OpSchema, OpSpec, OpStrategy, TupleStrategy

    mesh = DeviceMesh("cpu", [0, 1], _init_backend=False, _rank=0)
    tensors = [one for arg in args for one in (arg if isinstance(arg, list | tuple) else [arg])]
    tensors = [one for one in tensors if isinstance(one, torch.Tensor)]
    choices = [[Replicate(), *map(Shard, range(one.dim()))] for one in tensors]
    alike = zip(*choices, strict=False)
    for given in itertools.chain(alike, itertools.islice(itertools.product(*choices), _MOST_TRIALS)):
        remaining = iter(given)

        def wrapped(value: Any, remaining: Iterator[Placement] = remaining) -> Any:
            if isinstance(value, torch.Tensor):
                return OpStrategy([OpSpec(DTensorSpec(mesh, (next(remaining),), tensor_meta=_metas(value)))])
            if isinstance(value, list | tuple) and any(isinstance(one, torch.Tensor) for one in value):
                return TupleStrategy([wrapped(one) for one in value])
            return value

        found = strategy(OpSchema(called, tuple(map(wrapped, args)), {}))
        for way in found.strategies if isinstance(found, OpStrategy) else ():
            results: Any = way.output_specs if isinstance(way.output_specs, tuple) else (way.output_specs,)
            operands = way.input_specs if way.input_specs is not None else results * len(tensors)
            if [one.placements[0] for one in operands] == list(given) and None not in results:
                yield [_placed(one.placements[0]) for one in (*results, *operands)]


def autograd_time() -> int:
    """A number that grows with every operation that autograd records in this thread."""
    return int(torch.autograd._get_sequence_nr())  # type: ignore[attr-defined]


def give_turn(tensor: torch.Tensor, time: int) -> None:
    """Has the backward of what made a tensor come as late as if that had been at a time of `autograd_time`."""
    if tensor.grad_fn is not None:
        tensor.grad_fn._set_sequence_nr(time)  # type: ignore[attr-defined]


def grouped_product(rows: torch.Tensor, matrices: torch.Tensor) -> Callable[..., torch.Tensor] | None:
    """torch's own product of groups of rows with a matrix each, given where groups end; where it has a kernel for it,
    which is on GPUs, in bf16, for sizes that are multiples of 16 bytes."""
    if rows.device.type != "cuda" or rows.dtype is not torch.bfloat16 or matrices.dtype is not torch.bfloat16:
        return None
    if any(size % 8 for size in matrices.shape[1:]) or torch.cuda.get_device_capability(rows.device) < (8, 0):
        return None
    return lambda left, right, ends: torch.nn.functional.grouped_mm(left, right, offs=ends)


def group_by_name(name: str) -> ProcessGroup:
    """The process group that is registered under a name."""
    group: ProcessGroup = torch._C._distributed_c10d._resolve_process_group(name)  # type: ignore[arg-type]
    return group


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
