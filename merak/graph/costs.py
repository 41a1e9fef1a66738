"""What the operations of a captured graph cost, found by running it on fake tensors.

Fake tensors have shapes and dtypes and no data, so that a model of any size is run in seconds, in no memory. Three
things are seen on the way:

- *FLOPs* of each operation, as torch counts them;
- *saved bytes*: what autograd keeps for the backward, whatever the operation is. What several operations keep counts
  once, for the last, since that is how long a checkpoint has to keep it; parameters are there anyway;
- *kept bytes*: what stays of operations that are not to run again in a recomputation (`merak.graph.keeping`);
- *dtypes* of all values, which under autocast are not those that were captured.

Seconds are those of a `DeviceModel`: the larger of FLOPs over its speed and bytes touched over its bandwidth.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import fx
from torch.utils.flop_counter import FlopCounterMode

from merak._torch_graphs import evaluate_size, fake_as, fake_mode
from merak.graph.capture import Captured
from merak.graph.cutting import GraphCosts, NodeCost
from merak.graph.cutting import Value as ValueCost
from merak.graph.keeping import Kept
from merak.graph.randomness import generators_kept
from merak.graph.stages import Cuttable


@dataclass(frozen=True)
class DeviceModel:
    """How fast a device is, for estimates: FLOP/s of large products, bytes/s of its memory, seconds of any operation.

    The default is a core of a CPU. Cuts depend on the ratios only.
    """

    flops_per_s: float = 50e9
    bytes_per_s: float = 10e9
    overhead_s: float = 5e-6


@dataclass
class Measured:
    """What a run on fake tensors has found, by operation, for a micro-batch of certain sizes."""

    flops: dict[fx.Node, int]
    saved_bytes: dict[fx.Node, int]
    kept: Collection[fx.Node] = ()
    kept_bytes: dict[fx.Node, int] = field(default_factory=dict)


def measure(
    captured: Captured,
    sizes: dict[str, int],
    autocast: torch.dtype | None = None,
    device: str = "cpu",
    kept: Collection[fx.Node] = (),
) -> Measured:
    """Runs a graph on fake tensors of these sizes, and gives its values the dtypes that they have under autocast.

    Args:
        kept: operations whose results are to stay where their stage recomputes.
    """
    measured, stays = Measured({}, {}, kept), Kept()
    parameters: set[int] = set()
    keepers: dict[int, tuple[fx.Node, int]] = {}
    values: dict[fx.Node, Any] = {}
    counter = FlopCounterMode(display=False)
    around = torch.autocast(device, autocast) if autocast else contextlib.nullcontext()
    with generators_kept(torch.device(device)), fake_mode(), counter, around, torch.enable_grad():
        for node in captured.graph.nodes:
            if node.op == "placeholder":
                values[node] = _placeholder(captured, node, sizes, parameters)
            elif node.op == "get_attr":  # operations under autocast, which a later node runs
                values[node] = getattr(captured.graph.owning_module, str(node.target))
            elif node.op == "call_function":
                before = counter.get_total_flops()
                run = partial(node.target, *_given(node.args, values), **_given(node.kwargs, values))
                with _saving() as saved:
                    values[node] = stays.record(node.name, run) if node in kept else run()
                keepers |= {_storage(tensor): (node, tensor.numel() * tensor.element_size()) for tensor in saved}
                measured.flops[node] = counter.get_total_flops() - before
    for storage, (node, saved_bytes) in keepers.items():
        if storage not in parameters:
            measured.saved_bytes[node] = measured.saved_bytes.get(node, 0) + saved_bytes
    for node in kept:
        for storage, kept_bytes in {_storage(one): one.nbytes for one in stays.tensors(node.name)}.items():
            where = keepers[storage][0] if storage in keepers else node
            measured.kept_bytes[where] = measured.kept_bytes.get(where, 0) + kept_bytes
    for node, value in values.items():
        _take_dtype(node, value)
    return measured


def graph_costs(
    cuttable: Cuttable, measured: Measured, sizes: dict[str, int], gradients: set[fx.Node], device: DeviceModel
) -> GraphCosts:
    """The costs of a micro-batch with these sizes, for `merak.graph.cutting.cut`.

    Args:
        gradients: the nodes that get gradients; others have no backward.
    """
    names: dict[str, int] = {}
    parameter_bytes: list[float] = []
    nodes = []
    for node in cuttable.trunk:
        used = []
        for source in node.all_input_nodes:
            kind, key = cuttable.captured.sources.get(source.name, ("", ""))
            if source.op == "placeholder" and kind == "parameter":
                if key not in names:
                    names[key] = len(parameter_bytes)
                    parameter_bytes.append(_bytes(source.meta["val"], sizes))
                used.append(names[key])
        flops = measured.flops.get(node, 0)
        touched = _bytes(node.meta.get("val"), sizes) + sum(
            _bytes(one.meta.get("val"), sizes) for one in node.all_input_nodes
        )
        work = 0.0 if _is_view(node) else max(flops / device.flops_per_s, touched / device.bytes_per_s)
        seconds = work + device.overhead_s
        has_backward = node in gradients
        nodes.append(
            NodeCost(
                forward_s=seconds,
                backward_input_s=seconds if has_backward else 0.0,
                backward_weight_s=seconds if has_backward and used else 0.0,
                saved_bytes=measured.saved_bytes.get(node, 0) if has_backward else 0.0,
                parameters=tuple(used),
                kept_bytes=measured.kept_bytes.get(node, 0),
                kept=node in measured.kept,
            )
        )
    return GraphCosts(
        tuple(nodes),
        tuple(_values(cuttable, sizes, gradients)),
        tuple(parameter_bytes),
        tuple(cuttable.may_cut),
        parameter_names=tuple(names),
    )


def _values(cuttable: Cuttable, sizes: dict[str, int], gradients: set[fx.Node]) -> Iterator[ValueCost]:
    for node in cuttable.trunk:
        consumers = sorted({cuttable.position[user] for user in node.users if user in cuttable.position})
        if consumers and isinstance(node.meta.get("val"), torch.Tensor):
            yield ValueCost(
                cuttable.position[node], tuple(consumers), _bytes(node.meta["val"], sizes), node in gradients
            )


def _placeholder(captured: Captured, node: fx.Node, sizes: dict[str, int], parameters: set[int]) -> Any:
    fake = node.meta.get("val")
    if not isinstance(fake, torch.Tensor):
        return fake
    shape = [evaluate_size(size, sizes) for size in fake.shape]
    value = torch.empty(shape, dtype=fake.dtype, device=fake.device)
    if captured.sources[node.name].kind == "parameter":
        value.requires_grad_(value.is_floating_point() or value.is_complex())
        parameters.add(_storage(value))
    return value


def _take_dtype(node: fx.Node, value: Any) -> None:
    """Gives a node's captured value the dtype of one that it had in a run."""
    captured = node.meta.get("val")
    if isinstance(value, torch.Tensor) and isinstance(captured, torch.Tensor) and value.dtype != captured.dtype:
        node.meta["val"] = fake_as(captured, value.dtype)


@contextlib.contextmanager
def _saving() -> Iterator[list[torch.Tensor]]:
    """Lists what autograd saves within."""
    saved: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _given(arguments: Any, values: dict[fx.Node, Any]) -> Any:
    return fx.map_arg(arguments, values.__getitem__)


def _is_view(node: fx.Node) -> bool:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return getattr(target, "__name__", "") == "getitem"
    returns = target._schema.returns
    return bool(returns) and all(one.alias_info is not None and not one.alias_info.is_write for one in returns)


def _bytes(value: Any, sizes: dict[str, int]) -> float:
    if isinstance(value, list | tuple):
        return sum(_bytes(item, sizes) for item in value)
    if not isinstance(value, torch.Tensor):
        return 0.0
    count = 1
    for size in value.shape:
        count *= evaluate_size(size, sizes)
    return float(count * value.element_size())
