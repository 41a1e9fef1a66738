"""What the operations of a captured graph cost, found by running it on fake tensors.

Fake tensors have shapes and dtypes and no data, so that a model of any size is run in seconds, in no memory. Three
things are seen on the way:

- *FLOPs* of each operation, as torch counts them;
- *saved bytes*: what autograd keeps for the backward, whatever the operation is. What several operations keep counts
  once, for the last, since that is how long a checkpoint has to keep it; parameters are there anyway;
- *working bytes*: gradients on their way, which are alive while an operation's backward runs;
- *kept bytes*: what stays of operations that are not to run again in a recomputation (`merak.graph.keeping`);
- *dtypes* of all values, which under autocast are not those that were captured.

Seconds are those of a `DeviceModel`: the larger of FLOPs over its speed and bytes touched over its bandwidth.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import fx
from torch.utils.flop_counter import FlopCounterMode

from merak._torch_graphs import evaluate_size, fake_as, fake_mode
from merak.graph.capture import Captured
from merak.graph.cutting import GraphCosts, NodeCost
from merak.graph.cutting import Value as ValueCost
from merak.graph.keeping import Kept
from merak.graph.randomness import generators_kept, operation_of
from merak.graph.stages import Cuttable


@dataclass(frozen=True)
class DeviceModel:
    """How fast a device is, for estimates: FLOP/s of large products, bytes/s of its memory, seconds of any operation.

    The default is a core of a CPU. Cuts depend on the ratios only.
    """

    flops_per_s: float = 50e9
    bytes_per_s: float = 10e9
    overhead_s: float = 5e-6


class Saved(NamedTuple):
    """A tensor that autograd keeps: bytes, and by operation that keeps it whose value it is there, its own or one that
    it is given; None for what is made within an operation, as a norm's statistics."""

    nbytes: int
    keepers: dict[fx.Node, fx.Node | None]


@dataclass
class Measured:
    """What a run on fake tensors has found, by operation, for a micro-batch of certain sizes."""

    flops: dict[fx.Node, int]
    saved: dict[fx.Node, list[Saved]]
    kept: Collection[fx.Node] = ()
    kept_bytes: dict[fx.Node, int] = field(default_factory=dict)

    def saved_bytes(self, node: fx.Node) -> int:
        """Of all that counts at an operation."""
        return sum(one.nbytes for one in self.saved.get(node, ()))


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
    kept_alive: dict[int, Saved] = {}
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
                flops = counter.get_total_flops()
                run = partial(node.target, *_given(node.args, values), **_given(node.kwargs, values))
                with _saving() as saved:
                    values[node] = stays.record(node.name, run) if node in kept else run()
                _note(saved, node, values, kept_alive)
                measured.flops[node] = counter.get_total_flops() - flops
    last = {storage: next(reversed(one.keepers)) for storage, one in kept_alive.items()}
    for storage, one in kept_alive.items():
        if storage not in parameters:
            measured.saved.setdefault(last[storage], []).append(one)
    for node in kept:
        for storage, kept_bytes in {_storage(one): one.nbytes for one in stays.tensors(node.name)}.items():
            where = last.get(storage, node)
            measured.kept_bytes[where] = measured.kept_bytes.get(where, 0) + kept_bytes
    for node, value in values.items():
        _take_dtype(node, value)
    return measured


def graph_costs(
    cuttable: Cuttable,
    measured: Measured,
    sizes: dict[str, int],
    gradients: set[fx.Node],
    device: DeviceModel,
) -> GraphCosts:
    """The costs of a micro-batch with these sizes, for `merak.graph.cutting.cut`.

    Args:
        gradients: the nodes that get gradients; others have no backward.
    """
    alive = alive_in_backward(cuttable, gradients)
    names: dict[str, int] = {}
    parameter_bytes: list[float] = []
    nodes = []
    for node in cuttable.trunk:
        used = []
        for key, source in parameters_of(cuttable.captured, node).items():
            if key not in names:
                names[key] = len(parameter_bytes)
                parameter_bytes.append(nbytes_of(source, sizes))
            used.append(names[key])
        flops = measured.flops.get(node, 0)
        touched = nbytes_of(node, sizes) + sum(nbytes_of(one, sizes) for one in node.all_input_nodes)
        work = 0.0 if is_view(node) else max(flops / device.flops_per_s, touched / device.bytes_per_s)
        seconds = work + device.overhead_s
        has_backward = node in gradients
        nodes.append(
            NodeCost(
                forward_s=seconds,
                backward_input_s=seconds * times_of_inputs(node, flops > 0, gradients) if has_backward else 0.0,
                backward_weight_s=seconds if has_backward and used else 0.0,
                saved_bytes=measured.saved_bytes(node) if has_backward else 0.0,
                parameters=tuple(used),
                kept_bytes=measured.kept_bytes.get(node, 0),
                kept=node in measured.kept,
                working_bytes=sum(nbytes_of(one, sizes) for one in alive[node]),
            )
        )
    return GraphCosts(
        tuple(nodes),
        tuple(
            ValueCost(producer, consumers, nbytes_of(node, sizes), node in gradients)
            for node, producer, consumers in consumers_of(cuttable)
        ),
        tuple(parameter_bytes),
        tuple(cuttable.may_cut),
        parameter_names=tuple(names),
    )


def alive_in_backward(cuttable: Cuttable, gradients: Collection[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """By operation of the trunk, whose gradients are alive while its backward runs: that of its result, and those of
    what it is given, parameters too, which are added to the ones that are kept. Of a value that several operations take
    the later ones' gradients wait for the earlier one's: in a residual network that of the stream, while a layer's are
    worked out."""
    waiting: dict[int, list[fx.Node]] = {}
    for value, producer, consumers in consumers_of(cuttable):
        if value in gradients and not is_view(value):
            for position in range(producer + 1, consumers[-1]):
                waiting.setdefault(position, []).append(value)
    found = {}
    for position, node in enumerate(cuttable.trunk):
        of_inputs = [] if is_view(node) else [one for one in node.all_input_nodes if one in gradients]
        alive = dict.fromkeys([node, *of_inputs, *waiting.get(position, [])])
        found[node] = [one for one in alive if isinstance(one.meta.get("val"), torch.Tensor)] * (node in gradients)
        if _is_cross_entropy(node):  # of two steps: the gradient of the logarithms, and that of the scores
            found[node] += of_inputs
    return found


def _is_cross_entropy(node: fx.Node) -> bool:
    called = operation_of(node)
    return called is not None and called._schema.name == "aten::cross_entropy_loss"


def parameters_of(captured: Captured, node: fx.Node) -> dict[str, fx.Node]:
    """Those that an operation uses, by name: their placeholders."""
    found = {}
    for one in node.all_input_nodes:
        kind, key = captured.sources.get(one.name, ("", ""))
        if one.op == "placeholder" and kind == "parameter":
            found[key] = one
    return found


def consumers_of(cuttable: Cuttable) -> Iterator[tuple[fx.Node, int, tuple[int, ...]]]:
    """The tensors that operations of the trunk give to later ones: whose, its position, and theirs."""
    for node in cuttable.trunk:
        consumers = sorted({cuttable.position[user] for user in node.users if user in cuttable.position})
        if consumers and isinstance(node.meta.get("val"), torch.Tensor):
            yield node, cuttable.position[node], tuple(consumers)


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


def _note(saved: list[torch.Tensor], node: fx.Node, values: Mapping[fx.Node, Any], alive: dict[int, Saved]) -> None:
    """Adds what an operation keeps to what is kept, by storage."""
    for tensor in saved:
        before = alive.get(_storage(tensor))
        keepers = (before.keepers if before else {}) | {node: _whose(tensor, node, values)}
        alive[_storage(tensor)] = Saved(tensor.untyped_storage().nbytes(), keepers)  # a view keeps all that it is of


def _whose(tensor: torch.Tensor, keeper: fx.Node, values: Mapping[fx.Node, Any]) -> fx.Node | None:
    storage = _storage(tensor)
    for node in (*keeper.all_input_nodes, keeper):
        listed = values[node] if isinstance(values[node], list | tuple) else [values[node]]
        if any(isinstance(one, torch.Tensor) and _storage(one) == storage for one in listed):
            return node
    return None


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _given(arguments: Any, values: dict[fx.Node, Any]) -> Any:
    return fx.map_arg(arguments, values.__getitem__)


def times_of_inputs(node: fx.Node, is_product: bool, gradients: Collection[fx.Node]) -> float:
    """How many times as long as an operation itself the gradients of its inputs take, parameters apart. Of a product
    each is a product of that size; attention has four where it had two, and computes its scores again."""
    if is_attention(node):
        return 2.5
    wanted = sum(one in gradients and one.op != "placeholder" for one in node.all_input_nodes)
    return float(wanted if is_product else min(wanted, 1))


def is_attention(node: fx.Node) -> bool:
    """Whether an operation is attention as a whole."""
    called = operation_of(node)
    return called is not None and called._schema.name == "aten::scaled_dot_product_attention"


def is_view(node: fx.Node) -> bool:
    """Whether an operation computes nothing: a view, or an item of a list."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return getattr(target, "__name__", "") == "getitem"
    returns = target._schema.returns
    return bool(returns) and all(one.alias_info is not None and not one.alias_info.is_write for one in returns)


def nbytes_of(node: fx.Node, sizes: dict[str, int]) -> float:
    """Of what a node gives, in batches of these sizes."""
    return _bytes(node.meta.get("val"), sizes)


def _bytes(value: Any, sizes: dict[str, int]) -> float:
    if isinstance(value, list | tuple):
        return sum(_bytes(item, sizes) for item in value)
    if not isinstance(value, torch.Tensor):
        return 0.0
    count = 1
    for size in value.shape:
        count *= evaluate_size(size, sizes)
    return float(count * value.element_size())
