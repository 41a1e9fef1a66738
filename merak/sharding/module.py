"""A model as one rank of a mesh runs it: called as the plain model is, with parts of its parameters.

Every rank calls it with the same batch, whole; what it divides of that, it takes for itself. The loss is that of the
whole batch, the same on all ranks, and after `backward` each part of a parameter has its part of the gradient. State
dicts have the plain model's names, and are DTensors, which `torch.distributed.checkpoint` saves and loads; a parameter
that is cut as torch's placements cannot say (chunks of whole heads) is gathered for it, so that making one is
collective, and has it whole. `load_state_dict` takes these, and whole tensors.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import fx, nn
from torch.distributed.tensor import DTensor, Replicate, Shard

from merak._torch_compat import (
    group_by_name,
    known_by_pieces,
    local_of,
    make_dtensor,
    split_factor,
    strided_shard,
    unflatten_mesh,
)
from merak._torch_graphs import bind_symbols
from merak.graph.capture import canonical_names
from merak.graph.losses import scales
from merak.graph.randomness import RandomState, is_random, operation_of
from merak.graph.trees import flatten, rebuild
from merak.sharding.completion import Completion
from merak.sharding.lower import lower
from merak.sharding.parts import Place, gather, parts, pieces_of, whole_shape
from merak.sharding.program import Layout
from merak.sharding.same_on_all import check_same, lines_of
from merak.sharding.sizes import real_size

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class ShardedModule(nn.Module):
    """One rank's part of a model.

    Args:
        model: the plain model, the same on all ranks; its parameters are copied from.
        completion: of it.
        mesh: with the same axes, in the same order, as the completion's.
        seed: of random operations, such as dropout; each element of a tensor draws its own number, whoever has it.

    Attributes:
        step: how many calls in training there were. Random numbers are new with each; set it when training is resumed.

    Raises:
        ValueError: the completion is of another model or mesh, or ranks were given different ones. Collective.
    """

    def __init__(self, model: nn.Module, completion: Completion, mesh: DeviceMesh, seed: int = 0) -> None:
        super().__init__()
        self._seed, self.step = seed, 0
        _check_model(model, completion)
        self._mesh = _refined(completion, mesh)
        check_same(
            self._mesh,
            "the model, its sharding or the seed",
            [
                *lines_of(dict(model.named_parameters()) | dict(model.named_buffers())),
                f"seed {seed}",
                _ways(completion),
            ],
            "seed all ranks alike before the model is made, or load the same values, and annotate alike",
        )
        self._known_sizes: set[tuple[tuple[str, int], ...]] = set()
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
        self._depends_on_mode = not self._captured.training or any(map(_knows_training, lowered.captured.graph.nodes))
        super().train(self._captured.training)
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

    def train(self, mode: bool = True) -> ShardedModule:
        """Training, or evaluation, is what the graph was captured in.

        Raises:
            ValueError: it was captured in the other mode, and would compute otherwise in this one.
        """
        if mode != self._captured.training and self._depends_on_mode:
            raise ValueError(
                f"the graph was captured in {_mode(self._captured.training)}, and is another in {_mode(mode)}, for "
                f"dropout, say: make a ShardedModule of complete(..., training={mode}), and load this one's state dict"
            )
        return super().train(mode)

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
        self._check_batch(leaves, symbols)
        RandomState.set(self._seed, self.step, 0)
        outputs = list(self._graph[0](*self._arguments(leaves, symbols)))
        self.step += self.training
        return outputs, symbols

    def _check_batch(self, leaves: Mapping[str, Any], symbols: Mapping[str, int]) -> None:
        """Of the first batch of each size; for all of them that would take too long."""
        sizes = tuple(sorted(symbols.items()))
        if sizes not in self._known_sizes:
            advice = "each has to call it with the whole batch, all with the same, and takes its part of it"
            lines = lines_of({path: leaves[path] for path in self._captured.inputs})
            check_same(self._mesh, "batches", [*lines, f"step {self.step}"], advice)
            self._known_sizes.add(sizes)

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
        """A parameter or buffer, gathered. Collective over the mesh.

        Raises:
            ValueError: there is none of that name.
        """
        name = self._first_name(name)
        with torch.no_grad():
            return gather(self._names[name], self._layouts[name], self._places)

    def whole_gradient(self, name: str) -> torch.Tensor | None:
        """A parameter's gradient, gathered. Collective over the mesh, unless there is none.

        Raises:
            ValueError: there is none of that name.
        """
        name = self._first_name(name)
        gradient = self._names[name].grad
        return None if gradient is None else gather(gradient, self._layouts[name], self._places)

    @torch.no_grad()
    def clip_grad_norm_(self, max_norm: float) -> torch.Tensor:
        """Scales all gradients so that their norm, that of the whole model's, is at most `max_norm`; the norm before.
        Collective over the mesh. (`torch.nn.utils.clip_grad_norm_` would take the norm of this rank's parts.)"""
        gradients = {name: one.grad for name, one in self._names.items() if one.grad is not None}
        squares = torch.zeros((), dtype=torch.float64, device=next(iter(self._names.values())).device)
        for name, gradient in gradients.items():
            have_it = math.prod(
                self._places[axis].ranks for axis in _not_divided_over(self._layouts[name], self._places)
            )
            squares += gradient.double().square().sum() / have_it
        for place in self._places:
            dist.all_reduce(squares, group=group_by_name(place.group))
        norm = squares.sqrt()
        for gradient in gradients.values():
            gradient.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0).to(gradient.dtype))
        return norm.float()

    def _first_name(self, name: str) -> str:
        """Of a tied parameter, the name that it was found by first."""
        first = self._tied.get(name, name)
        if first not in self._names:
            close = difflib.get_close_matches(name, [*self._names, *self._tied], n=3)
            hint = f": did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise ValueError(f"the model has no parameter or buffer {name!r}{hint}")
        return first


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


def _check_model(model: nn.Module, completion: Completion) -> None:
    """That it is the one whose graph was completed."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    wrong = []
    for node in completion.graph.values:
        if node.op == "placeholder" and completion.graph.captured.sources[node.name].kind in ("parameter", "buffer"):
            name, shape = completion.graph.name(node), list(node.meta["val"].shape)
            if name not in tensors or list(tensors[name].shape) != shape:
                has = f"{list(tensors[name].shape)}" if name in tensors else "none"
                wrong.append(f"{name} {shape} (the model has {has})")
    if wrong:
        raise ValueError(f"the sharding is of another model, with {', '.join(wrong[:3])}")


def _ways(completion: Completion) -> str:
    """What differs if shardings do."""
    return f"sharding {[(node.name, layout) for node, layout in completion.layouts.items()]}"


def _knows_training(node: fx.Node) -> bool:
    """Whether an operation computes otherwise in evaluation."""
    target = operation_of(node)
    return is_random(node) or (target is not None and "batch_norm" in target._schema.name)


def _mode(training: bool) -> str:
    return "training" if training else "evaluation"


def _not_divided_over(layout: Layout, places: Sequence[Place]) -> set[int]:
    """The axes along which all ranks have the same of a tensor."""
    return set(range(len(places))) - {axis for pieces in layout for _, axes in pieces for axis in axes}


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
        made = make_dtensor(local, module._mesh, tuple(placements), torch.Size(whole_shape(layout)))
        if any(split_factor(one) for one in placements):
            made = known_by_pieces(made, pieces_of(local, layout, module._places))
        state[prefix + name] = made
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
