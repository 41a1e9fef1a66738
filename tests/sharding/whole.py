"""The same micro-batch in one process and on a mesh, and what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import fx, nn

from merak.graph.capture import Captured
from merak.graph.losses import scales
from merak.graph.prepare import Prepared, prepare
from merak.graph.randomness import RandomState
from merak.pipeline.microbatches import MicroBatch, bind, count_targets
from merak.sharding.completion import Completion
from merak.sharding.lower import lower
from merak.sharding.parts import Place, gather, parts, places_of
from merak.sharding.program import ShardableGraph
from merak.sharding.tactics import batch, megatron, sequence, spatial, zero
from tests.backend.harness import Context
from tests.engine import zoo

TACTICS = {
    "batch": [batch("dp")],
    "megatron": [megatron("tp")],
    "megatron-no-vocabulary": [megatron("tp", vocabulary=False)],
    "sequence": [megatron("tp"), sequence("tp")],
    "zero": [batch("dp"), zero("dp", least=8)],
    "spatial": [spatial("tp")],
    "2d": [batch("dp"), megatron("tp")],
    "2d-sequence": [batch("dp"), megatron("tp"), sequence("tp")],
    "2d-zero": [batch("dp"), megatron("tp"), sequence("tp"), zero("dp", least=8)],
}


class Outcome(NamedTuple):
    loss: float
    gradients: dict[str, torch.Tensor]


def arguments(captured: Captured, part: MicroBatch, tensors: Mapping[tuple[str, str], torch.Tensor]) -> list[Any]:
    """For each placeholder of a graph."""
    given: list[Any] = []
    for node in captured.graph.find_nodes(op="placeholder"):
        kind, key = captured.sources[node.name]
        if kind == "input":
            given.append(part.inputs[key])
        elif kind == "scale":
            given.append(part.scales[int(key)])
        else:
            given.append(captured.constants[key] if kind == "constant" else tensors[kind, key])
    return given


def prepared(name: str, rows: int, dtype: torch.dtype) -> tuple[Any, Prepared, MicroBatch]:
    model = zoo.make(name, dtype=dtype)
    made = prepare(model, zoo.batch_of(name, 2, 0, dtype), loss_fn=zoo.ZOO[name].loss_fn)
    return model, made, bound(made, zoo.batch_of(name, rows, 3, dtype))


def bound(made: Prepared, batch: Mapping[str, Any]) -> MicroBatch:
    """A whole batch as the one micro-batch of a step."""
    part = bind(made.captured, batch, 0)
    part.scales = scales(made.terms, count_targets(made.terms, [part]), part.rows, part.rows)
    return part


def in_one_process(name: str, rows: int = 4, dtype: torch.dtype = torch.float64) -> Outcome:
    """The plain model."""
    model = zoo.make(name, dtype=dtype)
    made = zoo.batch_of(name, rows, 3, dtype)
    output = model(**{key: value for key, value in made.items() if key != "labels" or zoo.ZOO[name].loss_fn is None})
    loss = output.loss if zoo.ZOO[name].loss_fn is None else zoo.ZOO[name].loss_fn(output, made)
    loss.backward()
    return Outcome(float(loss), {key: one.grad for key, one in model.named_parameters() if one.grad is not None})


def groups_of(mesh: Mapping[str, int], rank: int) -> dict[str, str]:
    """Makes the groups of a mesh; the names of this rank's."""
    device_mesh = dist.init_device_mesh("cpu", tuple(mesh.values()), mesh_dim_names=tuple(mesh))
    return {name: str(device_mesh.get_group(name).group_name) for name in mesh}


def places_on(completion: Completion, rank: int, known: dict[tuple[str, ...], list[Place]]) -> list[Place]:
    """A rank's on the mesh of a completed graph, which may have more axes than the one that was asked for. Makes groups
    for a mesh that is not known yet: collective."""
    mesh = completion.graph.mesh
    if tuple(mesh) not in known:
        known[tuple(mesh)] = places_of(mesh, rank, groups_of(mesh, rank))
    return known[tuple(mesh)]


def on_mesh(
    context: Context, name: str, mesh: Mapping[str, int], tactics: Sequence[str], rows: int, dtype: torch.dtype
) -> list[Outcome]:
    """By tactic: whole gradients, gathered from all ranks."""
    found, known = [], dict[tuple[str, ...], list[Place]]()
    for tactic in tactics:
        model, made, part = prepared(name, rows, dtype)
        completion = Completion(ShardableGraph(made, mesh), TACTICS[tactic])
        found.append(on_parts(model, completion, part, places_on(completion, context.rank, known)))
    return found


def on_parts(model: nn.Module, completion: Completion, part: MicroBatch, places: Sequence[Place]) -> Outcome:
    """What the rank at these places computes; its gradients, gathered."""
    lowered = lower(completion, places)
    root = completion.graph.captured.graph.owning_module
    tensors: dict[tuple[str, str], torch.Tensor] = {}
    for kind, named in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
        for key, tensor in named:
            if key in lowered.layouts:
                own = parts(tensor.detach(), lowered.layouts[key], places).clone()
                tensors[kind, key] = own.requires_grad_(kind == "parameter" and tensor.requires_grad)
    RandomState.set(0, 0, 0)
    module = fx.GraphModule(root or nn.Module(), lowered.captured.graph)
    outputs = module(*arguments(lowered.captured, part, tensors))
    assert lowered.captured.loss is not None
    loss = outputs[lowered.captured.loss]
    loss.backward()
    gradients = {
        key: gather(one.grad, lowered.layouts[key], places)
        for (kind, key), one in tensors.items()
        if kind == "parameter" and one.grad is not None
    }
    return Outcome(float(loss), gradients)
