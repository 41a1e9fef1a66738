"""A model as one rank of a mesh runs it: called as the plain model is, with parts of its parameters.

Every rank calls it with the same batch, whole; what it divides of that, it takes for itself. The loss is that of the
whole batch, the same on all ranks, and after `backward` each part of a parameter has its part of the gradient. State
dicts have the plain model's names, and are DTensors, which `torch.distributed.checkpoint` saves and loads; a parameter
that is cut as torch's placements cannot say (chunks of whole heads) is gathered for it, so that making one is
collective, and has it whole. `load_state_dict` takes these, and whole tensors.
"""

from __future__ import annotations

import copy
import difflib
import math
import operator
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import fx, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
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
from merak.backend import share_timeout
from merak.graph.capture import canonical_names
from merak.graph.fitting import fit
from merak.graph.losses import scales
from merak.graph.randomness import RandomState, is_random, operation_of
from merak.graph.trees import rebuild
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
        mesh: with the same axes, in the same order, as the completion's. Its groups get the default group's timeout,
            if they have none of their own.
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

    def _tensors(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers as they are now: loading and converting may put others in their place."""
        return dict(self.named_parameters()) | dict(self.named_buffers())

    def _tensor(self, name: str) -> torch.Tensor:
        """One of them."""
        tensor: torch.Tensor = operator.attrgetter(name)(self)
        return tensor

    def __deepcopy__(self, memo: dict[int, Any]) -> ShardedModule:
        """With parameters and buffers of its own, on the same graph and mesh."""
        copied = ShardedModule.__new__(ShardedModule)
        memo[id(self)] = copied
        shared = {name: one for name, one in vars(self).items() if name not in ("_parameters", "_buffers", "_modules")}
        vars(copied).update(shared, _graph=list(self._graph), _known_sizes=set(self._known_sizes))
        for name in ("_parameters", "_buffers", "_modules"):
            vars(copied)[name] = copy.deepcopy(vars(self)[name], memo)
        copied._load_state_dict_pre_hooks = OrderedDict()
        copied.register_load_state_dict_pre_hook(_as_parts)  # type: ignore[no-untyped-call]
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a ShardedModule is bound to its process groups: save its state_dict(), and make it again")

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
        inputs, symbols = fit(self._captured, batch)
        self._check_batch(inputs, symbols)
        RandomState.set(self._seed, self.step, 0)
        outputs = list(self._graph[0](*self._arguments(inputs, symbols)))
        self.step += self.training
        return outputs, symbols

    def _check_batch(self, inputs: Mapping[str, torch.Tensor], symbols: Mapping[str, int]) -> None:
        """Of the first batch of each size; for all of them that would take too long."""
        sizes = tuple(sorted(symbols.items()))
        if sizes not in self._known_sizes:
            advice = "each has to call it with the whole batch, all with the same, and takes its part of it"
            check_same(self._mesh, "batches", [*lines_of(inputs), f"step {self.step}"], advice)
            self._known_sizes.add(sizes)

    def _arguments(self, inputs: dict[str, torch.Tensor], symbols: dict[str, int]) -> list[Any]:
        captured = self._captured
        totals = [count(inputs, symbols) if count else 0.0 for count in self._terms.counts]
        values = scales(self._terms, totals, 1, 1)
        state = self._tensors()
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
            return gather(self._tensor(name), self._layouts[name], self._places)

    def whole_gradient(self, name: str) -> torch.Tensor | None:
        """A parameter's gradient, gathered. Collective over the mesh, unless there is none.

        Raises:
            ValueError: there is none of that name.
        """
        name = self._first_name(name)
        gradient = self._tensor(name).grad
        return None if gradient is None else gather(gradient, self._layouts[name], self._places)

    @torch.no_grad()
    def clip_grad_norm_(self, max_norm: float) -> torch.Tensor:
        """Scales all gradients so that their norm, that of the whole model's, is at most `max_norm`; the norm before.
        Collective over the mesh. (`torch.nn.utils.clip_grad_norm_` would take the norm of this rank's parts.)"""
        tensors = self._tensors()
        gradients = {name: one.grad for name, one in tensors.items() if one.grad is not None}
        squares = torch.zeros((), dtype=torch.float64, device=next(iter(tensors.values())).device)
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

    def optimizer_state_dict(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """An optimizer's state as `torch.distributed.checkpoint.state_dict.get_optimizer_state_dict` has it, with what
        has a parameter's shape as DTensors, so that it is saved for any division. Collective, as `state_dict` is."""
        state = get_optimizer_state_dict(self, optimizer)
        for name, of_parameter in self._of_parameters(state):
            here = self._tensor(name).shape
            for key, one in of_parameter.items():
                if isinstance(one, torch.Tensor) and one.dim() and one.shape == here:
                    of_parameter[key] = self._as_dtensor(name, one)
        return state

    def load_optimizer_state_dict(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Sets what `optimizer_state_dict` gave, of this division or of another one. Collective."""
        mine: dict[str, Any] = {**state, "state": {name: dict(one) for name, one in state["state"].items()}}
        for name, of_parameter in self._of_parameters(mine):
            for key, one in of_parameter.items():
                if isinstance(one, DTensor):
                    of_parameter[key] = self._as_part(name, one)
        set_optimizer_state_dict(self, optimizer, mine)

    def _of_parameters(self, state: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        return ((name, one) for name, one in state["state"].items() if name in self._layouts)

    def _as_dtensor(self, name: str, local: torch.Tensor) -> DTensor:
        """A parameter's part, or what is as its part, as torch knows it. Collective where it has no placements."""
        layout, local = self._layouts[name], local.detach()
        placements = placements_of(layout, self._mesh.ndim)
        if placements is None:
            local, placements = gather(local, layout, self._places), [Replicate()] * self._mesh.ndim
        made = make_dtensor(local, self._mesh, tuple(placements), torch.Size(whole_shape(layout)))
        if any(split_factor(one) for one in placements):
            made = known_by_pieces(made, pieces_of(local, layout, self._places))
        return made

    def _as_part(self, name: str, given: torch.Tensor) -> torch.Tensor:
        """Of a DTensor, however it is divided, or of a whole tensor, what this rank has."""
        if not isinstance(given, DTensor):
            return self._part(name, given)
        if list(given.placements) == placements_of(self._layouts[name], self._mesh.ndim):
            return local_of(given)
        return self._part(name, given.full_tensor())

    def _first_name(self, name: str) -> str:
        """Of a tied parameter, the name that it was found by first."""
        first = self._tied.get(name, name)
        if first not in self._layouts:
            close = difflib.get_close_matches(name, [*self._layouts, *self._tied], n=3)
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
    for group in groups:
        share_timeout(group)
    return [Place(group.rank(), group.size(), str(group.group_name)) for group in groups]


def _whole_axes(completion: Completion, mesh: DeviceMesh) -> dict[tuple[int, ...], str]:
    """Groups of the axes that are in parts, by the numbers of these."""
    axes = {name: tuple(completion.graph.axes(name)) for name in completion.mesh}
    return {numbers: str(mesh.get_group(name).group_name) for name, numbers in axes.items() if len(numbers) > 1}


def _as_dtensors(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    assert isinstance(module, ShardedModule)
    for name in module._layouts:
        if prefix + name not in state:
            continue
        state[prefix + name] = module._as_dtensor(name, state[prefix + name])
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
        if isinstance(given, DTensor) or (isinstance(given, torch.Tensor) and list(given.shape) == whole_shape(layout)):
            state[prefix + name] = module._as_part(name, given)


def placements_of(layout: Layout, axes: int) -> list[Any] | None:
    """The layout as torch's placements, one for each axis of the mesh; None where torch has none for it."""
    placements: list[Any] = [Replicate()] * axes
    for dim, pieces in enumerate(layout):
        divided = [number for number, (_, of_piece) in enumerate(pieces) if of_piece]
        if not divided:
            continue
        axes_of_dim = pieces[divided[0]][1]
        if len(divided) > 1 or (divided[0] > 0 and len(axes_of_dim) > 1) or list(axes_of_dim) != sorted(axes_of_dim):
            return None  # torch divides over the mesh's axes in their order
        outer = 1
        for size, _ in pieces[: divided[0]]:
            outer *= size
        if divided[0] + 1 < len(pieces):  # chunks of whole heads, say, which torch would cut elsewhere
            return None
        for axis in axes_of_dim:
            placements[axis] = Shard(dim) if outer == 1 else strided_shard(dim, outer)
    return placements
