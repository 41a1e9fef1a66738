"""Experts of a mixture, as one operation of a captured graph.

A router gives each row of `x` the numbers of k experts, and a weight for each. Its result is the weighted sum of what
these make of it:

    y[n] = sum over j of weights[n, j] * expert[index[n, j]](x[n])

Rows are sorted by expert (`dispatch`), go through all experts at once, in products of groups of rows with a matrix each
(`product`), and are put back and added up (`combine`). How many rows an expert gets depends on the data: in a graph,
whose shapes are fixed by the batch's, that is nobody's concern outside, so that all from dispatch to combine is one
operation, `Experts`. That is also what lets `merak.sharding` send rows to other ranks' experts in between.

Hugging Face's modules of experts say what they are made of (`has_gate`, `is_transposed`, ...) and may be computed in
several ways; while a model is captured they are computed in this one. Its numbers are those of their `grouped_mm`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.utils.flop_counter import register_flop_formula

from merak._torch_compat import grouped_product

_KNOWN = (None, "eager", "batched_mm", "grouped_mm")
"""Ways of Hugging Face's to compute experts that all mean the same."""

_library = torch.library.Library("merak", "FRAGMENT")
_library.define("experts_dispatch(Tensor x, Tensor index, int experts) -> (Tensor, Tensor, Tensor, Tensor)")
_library.define("experts_combine(Tensor rows, Tensor weights, Tensor order) -> Tensor")


class Dispatched(NamedTuple):
    """Rows in the order of their experts.

    Attributes:
        rows: of `x`, each k times, (n * k, features).
        experts: of each the number of its expert, ascending.
        ends: of each expert where its rows end, int32.
        order: of each row where it was among the n * k.
    """

    rows: torch.Tensor
    experts: torch.Tensor
    ends: torch.Tensor
    order: torch.Tensor


def dispatch(x: torch.Tensor, index: torch.Tensor, experts: int) -> Dispatched:
    """Sorts rows by expert.

    Args:
        x: (n, features).
        index: (n, k), numbers of experts.
        experts: how many there are.
    """
    numbers, order = torch.sort(index.reshape(-1), stable=True)
    ends = torch.searchsorted(numbers, torch.arange(experts, device=x.device, dtype=numbers.dtype), right=True)
    return Dispatched(x.index_select(0, order // index.shape[-1]), numbers, ends.to(torch.int32), order)


def combine(rows: torch.Tensor, weights: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Puts rows back in their order, and adds up the k of each, weighted.

    Args:
        rows: (n * k, features), in the order of their experts.
        weights: (n, k).
        order: as `dispatch` gave it.
    """
    by_row = rows.index_select(0, torch.argsort(order)).unflatten(0, weights.shape)
    added: torch.Tensor = (by_row * weights.unsqueeze(-1)).sum(dim=1)
    return added


_library.impl("experts_dispatch", lambda *args: tuple(dispatch(*args)), "CompositeImplicitAutograd")
_library.impl("experts_combine", combine, "CompositeImplicitAutograd")


# Products of groups of rows -------------------------------------------------------------------------------------------


@torch.library.custom_op("merak::experts_product", mutates_args=())
def product(rows: torch.Tensor, matrices: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """The product of each group of rows with a matrix of its own.

    Args:
        rows: (rows, k), group after group.
        matrices: (groups, k, n), with any strides.
        ends: of each group where it ends.

    Returns:
        (rows, n).
    """
    if (at_once := grouped_product(rows, matrices)) is not None:
        return at_once(rows, matrices, ends)
    made = rows.new_empty(rows.shape[0], matrices.shape[2])
    for group, begin, end in _groups(ends):
        torch.mm(rows[begin:end], matrices[group], out=made[begin:end])
    return made


@torch.library.custom_op("merak::experts_product_backward", mutates_args=())
def _product_backward(
    gradient: torch.Tensor, rows: torch.Tensor, matrices: torch.Tensor, ends: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    if (at_once := grouped_product(rows, matrices)) is not None:
        gradient = gradient.contiguous()
        return at_once(gradient, matrices.transpose(1, 2), ends), at_once(rows.t(), gradient, ends)
    of_rows, of_matrices = torch.empty_like(rows), torch.zeros_like(matrices)
    for group, begin, end in _groups(ends):
        torch.mm(gradient[begin:end], matrices[group].t(), out=of_rows[begin:end])
        of_matrices[group] = rows[begin:end].t() @ gradient[begin:end]
    return of_rows, of_matrices


def _groups(ends: torch.Tensor) -> Iterator[tuple[int, int, int]]:
    begin = 0
    for group, end in enumerate(ends.tolist()):  # the one wait for the device
        if end > begin:
            yield group, begin, end
        begin = end


@product.register_fake
def _(rows: torch.Tensor, matrices: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    return rows.new_empty(rows.shape[0], matrices.shape[2])


@_product_backward.register_fake
def _(
    gradient: torch.Tensor, rows: torch.Tensor, matrices: torch.Tensor, ends: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(rows), torch.empty_like(matrices)


def _keep(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
    return *_product_backward(gradient, *ctx.saved_tensors), None


product.register_autograd(_differentiate, setup_context=_keep)


@register_flop_formula(torch.ops.merak.experts_product)
def _flops(rows: Sequence[int], matrices: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * rows[0] * matrices[1] * matrices[2]


@register_flop_formula(torch.ops.merak.experts_product_backward)
def _flops_backward(gradient: Sequence[int], rows: Sequence[int], matrices: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * _flops(rows, matrices)


# In a capture ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def experts_marked(model: nn.Module) -> Iterator[None]:
    """Within, Hugging Face's modules of experts are computed from `dispatch` to `combine`."""
    marked = [module for module in model.modules() if _are_experts(module)]
    for module in marked:
        module.forward = partial(_forward, module)
    try:
        yield
    finally:
        for module in marked:
            del module.forward


def _are_experts(module: nn.Module) -> bool:
    described = all(hasattr(module, name) for name in ("has_gate", "has_bias", "is_transposed", "_apply_gate"))
    way = getattr(getattr(module, "config", None), "_experts_implementation", "")
    return described and hasattr(module, "down_proj") and way in _KNOWN and "forward" not in vars(module)


def _forward(module: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor) -> Any:
    rows, numbers, ends, order = torch.ops.merak.experts_dispatch(hidden_states, top_k_index, module.num_experts)

    def linear(rows: torch.Tensor, name: str) -> torch.Tensor:
        matrices = getattr(module, name)
        matrices = matrices if module.is_transposed else matrices.transpose(1, 2)
        made: torch.Tensor = torch.ops.merak.experts_product(rows.to(matrices.dtype), matrices, ends)
        return made + getattr(module, f"{name}_bias")[numbers] if module.has_bias else made

    rows = linear(rows, "gate_up_proj" if module.has_gate else "up_proj")
    rows = module._apply_gate(rows) if module.has_gate else module.act_fn(rows)
    rows = linear(rows, "down_proj")
    if getattr(module, "has_post_expert_norm", False):
        rows = module.post_expert_norm(rows)
    return torch.ops.merak.experts_combine(rows, top_k_weights, order).to(hidden_states.dtype)


class Experts:
    """Called by graphs: with rows, numbers of experts, weights, and what the experts are made of.

    Args:
        body: from rows in the order of their experts, the numbers and ends of these, and what else it is given, to as
            many rows.
        experts: how many there are.
        of_experts: of what the body is given besides, that of which each expert has its own, by number.
    """

    def __init__(self, body: fx.GraphModule, experts: int, of_experts: Sequence[int]) -> None:
        self.body, self.experts, self.of_experts = body, experts, tuple(of_experts)
        # What torch.fx names it by in the code that it writes.
        self.__name__, self.__module__ = "experts", __name__

    def __call__(self, x: torch.Tensor, index: torch.Tensor, weights: torch.Tensor, /, *given: Any) -> torch.Tensor:
        sent = dispatch(x, index, self.experts)
        return combine(self.body(sent.rows, sent.experts, sent.ends, *given), weights, sent.order)


def experts_as_one(graph: fx.Graph) -> None:
    """Makes one operation of each mixture of experts that was marked, in place."""
    for node in graph.find_nodes(op="call_function", target=torch.ops.merak.experts_combine.default):
        _as_one(graph, node)


def _as_one(graph: fx.Graph, combined: fx.Node) -> None:
    rows, weights, order = combined.all_input_nodes
    sent = order.all_input_nodes[0]
    x, index, experts = sent.args
    inside = _between(graph, sent, combined)
    given = list(dict.fromkeys(one for node in inside for one in node.all_input_nodes if one not in {*inside, sent}))
    body, copies = _body(sent, inside, given)
    body.output(copies[rows])
    of_experts = [number for number, one in enumerate(given) if any(map(_has_one_each, copies[one].users))]
    called = Experts(fx.GraphModule(torch.nn.Module(), body), int(str(experts)), of_experts)
    with graph.inserting_before(combined):
        whole = graph.create_node("call_function", called, (x, index, weights, *given), name="experts")
    whole.meta.update(combined.meta)
    combined.replace_all_uses_with(whole)
    for node in (combined, *reversed(inside), sent):
        graph.erase_node(node)


def _body(
    sent: fx.Node, inside: Sequence[fx.Node], given: Sequence[fx.Node]
) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """What is computed with sorted rows, as a graph without an output, and its nodes by those outside."""
    body = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    parts = [body.placeholder(name) for name in ("rows", "numbers", "ends")]
    for one in given:
        copies[one] = body.placeholder(one.name)
        copies[one].meta.update(one.meta)
    for node in inside:
        if sent not in node.all_input_nodes:
            copies[node] = body.node_copy(node, copies.__getitem__)
        elif (item := int(str(node.args[1]))) < len(parts):
            copies[node] = parts[item]
    return body, copies


def _between(graph: fx.Graph, sent: fx.Node, combined: fx.Node) -> list[fx.Node]:
    """The operations between the two, in order: what follows from what was sent, and views of parameters that nothing
    else uses."""
    follows = {sent}
    for node in graph.nodes:
        if node is not combined and not follows.isdisjoint(node.all_input_nodes):
            follows.add(node)
    needed: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        used = node.users and all(user in needed or user is combined for user in node.users)
        if used and (node in follows or node.target is torch.ops.aten.transpose.int):
            needed.add(node)
    needed.discard(sent)
    return [node for node in graph.nodes if node in needed]


def _has_one_each(user: fx.Node) -> bool:
    """Whether an operation takes of something a part for each expert: by the groups of a product, or by number."""
    if user.target is torch.ops.aten.transpose.int:
        return all(map(_has_one_each, user.users))
    return user.target in (torch.ops.merak.experts_product.default, torch.ops.aten.index.Tensor)
