"""A model as one rank of a mesh runs it: called as the plain model is, with parts of its parameters.

Every rank calls it with the same batch, whole; what it divides of that, it takes for itself. The loss is that of the
whole batch, the same on all ranks, and after `backward` each part of a parameter has its part of the gradient. State
dicts have the plain model's names, and are DTensors; a parameter that is cut as torch's placements cannot say (chunks
of whole heads) is gathered for it, so that making one is collective. `load_state_dict` takes these, and whole tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn
from torch.distributed.tensor import DTensor, Replicate, Shard

from merak._torch_compat import local_of, make_dtensor, strided_shard, unflatten_mesh
from merak._torch_graphs import bind_symbols
from merak.graph.capture import canonical_names
from merak.graph.losses import scales
from merak.graph.randomness import RandomState
from merak.graph.trees import flatten, rebuild
from merak.sharding.completion import Completion
from merak.sharding.lower import lower
from merak.sharding.parts import Place, gather, parts, whole_shape
from merak.sharding.program import Layout
from merak.sharding.sizes import real_size

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class ShardedModule(nn.Module):
    """One rank's part of a model.

    Args:
        model: the plain model, the same on all ranks; its parameters are copied from.
        completion: of it.
        mesh: with the same axes, in the same order, as the completion's.
        seed: of random operations; ranks with different parts draw different numbers.

    Attributes:
        step: random numbers are new with each.
    """

    def __init__(self, model: nn.Module, completion: Completion, mesh: DeviceMesh, seed: int = 0) -> None:
        super().__init__()
        self._seed, self.step = seed, 0
        self._mesh = _refined(completion, mesh)
        self._places = _places_on(self._mesh)
        lowered = lower(completion, self._places, whole_axes=_whole_axes(completion, mesh))
        self._captured, self._layouts, self._outputs = lowered.captured, lowered.layouts, lowered.outputs
        self._terms, self._formulas = completion.graph.prepared.terms, completion.graph.formulas
        root = completion.graph.captured.graph.owning_module
        self._graph: list[Any] = [fx.GraphModule(root if root is not None else nn.Module(), lowered.captured.graph)]
        self._names: dict[str, torch.Tensor] = {}
        for name, parameter in model.named_parameters():
            if name in self._layouts:
                self._add(name, nn.Parameter(self._part(name, parameter), parameter.requires_grad))
        for name, buffer in model.named_buffers():
            if name in self._layouts:
                self._add(name, self._part(name, buffer))
        self._tied = {name: first for name, first in canonical_names(model).items() if name != first}
        self._register_state_dict_hook(_as_dtensors)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_as_parts)  # type: ignore[no-untyped-call]

    def _part(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        return parts(tensor.detach(), self._layouts[name], self._places).clone()

    def _add(self, name: str, tensor: torch.Tensor) -> None:
        """Under the plain model's name: modules are made for its parts."""
        *path, last = name.split(".")
        module: nn.Module = self
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        if isinstance(tensor, nn.Parameter):
            module.register_parameter(last, tensor)
        else:
            module.register_buffer(last, tensor)
        self._names[name] = tensor

    def forward(self, **batch: Any) -> Any:
        """What the plain model gives for a batch; whole, on all ranks."""
        outputs, symbols = self._run(batch)
        for number, layout in self._outputs.items():
            real = [[(real_size(size, self._formulas, symbols), axes) for size, axes in pieces] for pieces in layout]
            outputs[number] = gather(outputs[number], real, self._places)
        return rebuild(self._captured.template, self._captured.all_leaves(outputs))

    def loss(self, **batch: Any) -> torch.Tensor:
        """The loss of a batch, of the model or of the `loss_fn` that it was completed with; outputs stay divided."""
        if self._captured.loss is None:
            raise ValueError("the model's output has no loss: give labels in the batch, or loss_fn to `complete`")
        loss: torch.Tensor = self._run(batch)[0][self._captured.loss]
        return loss

    def _run(self, batch: Mapping[str, Any]) -> tuple[list[Any], dict[str, int]]:
        """Outputs as this rank has them, and what the symbols of the batch's sizes stand for."""
        captured = self._captured
        flat = flatten(dict(batch))
        leaves = dict(zip(flat.paths, flat.leaves, strict=True))
        symbols: dict[str, int] = {}
        if misfits := _misfits(captured.inputs, captured.fixed, leaves, symbols):
            raise ValueError("the batch does not fit the example of the sharding:\n  " + "\n  ".join(misfits))
        RandomState.set(self._seed, self.step, 0)
        return list(self._graph[0](*self._arguments(leaves, symbols))), symbols

    def _arguments(self, leaves: Mapping[str, Any], symbols: dict[str, int]) -> list[Any]:
        captured = self._captured
        inputs = {path: leaves[path] for path in captured.inputs}
        totals = [count(inputs, symbols) if count else 0.0 for count in self._terms.counts]
        values = scales(self._terms, totals, 1, 1)
        state = dict(self.named_parameters()) | dict(self.named_buffers())
        given: list[Any] = []
        for node in captured.graph.find_nodes(op="placeholder"):
            kind, key = captured.sources[node.name]
            by_kind = {"input": inputs, "constant": captured.constants, "parameter": state, "buffer": state}
            given.append(values[int(key)] if kind == "scale" else by_kind[kind][key])
        return given

    def compile_graph(self, **options: Any) -> None:
        """Has `torch.compile` run the graph from now on; `options` are its own, such as `backend="aot_eager"`."""
        self._graph[0] = torch.compile(self._graph[0], **options)

    def whole(self, name: str) -> torch.Tensor:
        """A parameter or buffer, gathered. Collective over the mesh."""
        with torch.no_grad():
            return gather(self._names[name], self._layouts[name], self._places)

    def whole_gradient(self, name: str) -> torch.Tensor | None:
        """A parameter's gradient, gathered. Collective over the mesh, unless there is none."""
        gradient = self._names[name].grad
        return None if gradient is None else gather(gradient, self._layouts[name], self._places)


def _refined(completion: Completion, mesh: DeviceMesh) -> DeviceMesh:
    """The mesh with the axes of the completed graph: a part of an axis has groups of its own."""
    names, wanted = mesh.mesh_dim_names or (), completion.mesh
    if tuple(names) != tuple(wanted) or tuple(mesh.shape) != tuple(wanted.values()):
        raise ValueError(
            f"the sharding is for a mesh {dict(wanted)}, and this one is {dict(zip(names, mesh.shape, strict=False))}"
        )
    refined = completion.graph.mesh
    for name in wanted:
        if name not in refined:
            of_axis = [list(refined)[number] for number in completion.graph.axes(name)]
            mesh = unflatten_mesh(mesh, name, {one: refined[one] for one in of_axis})
    return mesh


def _places_on(mesh: DeviceMesh) -> list[Place]:
    groups = [mesh.get_group(name) for name in mesh.mesh_dim_names or ()]
    return [Place(group.rank(), group.size(), str(group.group_name)) for group in groups]


def _whole_axes(completion: Completion, mesh: DeviceMesh) -> dict[tuple[int, ...], str]:
    """Groups of the axes that are in parts, by the numbers of these."""
    axes = {name: tuple(completion.graph.axes(name)) for name in completion.mesh}
    return {numbers: str(mesh.get_group(name).group_name) for name, numbers in axes.items() if len(numbers) > 1}


def _misfits(
    inputs: Mapping[str, torch.Tensor], fixed: Mapping[str, Any], leaves: Mapping[str, Any], symbols: dict[str, int]
) -> list[str]:
    """How a batch differs from the example; what the symbols of its sizes stand for is added to `symbols`."""
    misfits = [f"{path}: is missing" for path in (*inputs, *fixed) if path not in leaves]
    misfits += [f"{path}: was not in the example" for path in leaves if path not in inputs and path not in fixed]
    for path, fake in inputs.items():
        leaf = leaves.get(path)
        if isinstance(leaf, torch.Tensor) and leaf.dim() == fake.dim() and leaf.dtype == fake.dtype:
            misfits += [f"{path}: {misfit}" for misfit in bind_symbols(fake, leaf, symbols)]
        elif path in leaves:
            misfits.append(f"{path}: must be {fake.dtype} with {fake.dim()} dimensions")
    misfits += [
        f"{path}: is {leaves[path]!r} and was {fixed[path]!r}" for path in fixed if leaves.get(path) != fixed[path]
    ]
    return misfits


def _as_dtensors(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    assert isinstance(module, ShardedModule)
    for name in module._layouts:
        if prefix + name not in state:
            continue
        layout, local = module._layouts[name], state[prefix + name].detach()
        placements = placements_of(layout, module._mesh.ndim)
        if placements is None:
            local, placements = module.whole(name), [Replicate()] * module._mesh.ndim
        state[prefix + name] = make_dtensor(local, module._mesh, tuple(placements), torch.Size(whole_shape(layout)))
    for name, first in module._tied.items():
        if prefix + first in state:
            state[prefix + name] = state[prefix + first]


def _as_parts(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """A state dict to load, of DTensors or of whole tensors, becomes that of this rank."""
    assert isinstance(module, ShardedModule)
    for name in module._tied:
        state.pop(prefix + name, None)
    for name, layout in module._layouts.items():
        given = state.get(prefix + name)
        if isinstance(given, DTensor):
            same = list(given.placements) == placements_of(layout, module._mesh.ndim)
            given = local_of(given) if same else given.full_tensor()
            state[prefix + name] = given if same else module._part(name, given)
        elif isinstance(given, torch.Tensor) and list(given.shape) == whole_shape(layout):
            state[prefix + name] = module._part(name, given)


def placements_of(layout: Layout, axes: int) -> list[Any] | None:
    """The layout as torch's placements, one for each axis of the mesh; None where torch has none for it."""
    placements: list[Any] = [Replicate()] * axes
    for dim, pieces in enumerate(layout):
        divided = [number for number, (_, of_piece) in enumerate(pieces) if of_piece]
        if not divided:
            continue
        if len(divided) > 1 or (divided[0] > 0 and len(pieces[divided[0]][1]) > 1):
            return None
        outer = 1
        for size, _ in pieces[: divided[0]]:
            outer *= size
        if divided[0] + 1 < len(pieces):  # chunks of whole heads, say, which torch would cut elsewhere
            return None
        for axis in pieces[divided[0]][1]:
            placements[axis] = Shard(dim) if outer == 1 else strided_shard(dim, outer)
    return placements
