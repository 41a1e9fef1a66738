"""Ways to divide a whole model that have names. Each looks at the graph's operations, and at no model's layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import fx

from merak.graph.randomness import operation_of
from merak.sharding.annotations import Annotation, Tactic
from merak.sharding.program import Operation, ShardableGraph

_SAME_IDS = {"view", "reshape", "flatten", "unsqueeze", "to", "_to_copy", "contiguous", "clone", "slice"}
_NORMS = ("layer_norm", "rms_norm")
_ALONG = {f"{kind}{dims}d": dims for kind in ("conv", "max_pool", "avg_pool") for dims in (1, 2, 3)}
"""What goes along the last dimensions of a tensor, and along how many."""


def batch(axis: str) -> Tactic:
    """Divides the batch: each rank computes its rows."""

    def tactic(graph: ShardableGraph) -> list[Annotation]:
        found = []
        for number, operation in enumerate(graph.operations):
            _, operands, results = graph.rule(number)
            of_rows = {
                factor
                for node, dims in zip(operation.operands, operands, strict=True)
                if node in graph.free and node in graph.number
                for size, factors in zip(graph.shape(node), dims, strict=True)
                for factor in factors
                if any(size % rows == 0 for rows in graph.rows)
            }
            found += _where(operation, results, of_rows, axis, f"batch({axis!r})")
        return found

    return tactic


def megatron(axis: str, *, vocabulary: bool = True) -> Tactic:
    """Divides layers as Megatron-LM does: the first of two products by columns, heads included, the second by rows, and
    mixtures by experts.

    Args:
        vocabulary: divide tables of embeddings, and the scores of a cross entropy, by words.
    """

    def tactic(graph: ShardableGraph) -> list[Annotation]:
        label = f"megatron({axis!r})"
        found = {}
        for number, dim, is_vocabulary in graph.program.sandwiches(graph.axis(axis)):
            if vocabulary or not is_vocabulary:
                found[graph.values[number]] = dim
        if vocabulary:
            found |= {table: 0 for table in _tables(graph) if table not in found}
        found |= dict.fromkeys(_parameters_of_experts(graph), 0)
        return [_divide(graph, node, dim, axis, label) for node, dim in found.items()]

    return tactic


def sequence(axis: str) -> Tactic:
    """Divides what `megatron` leaves whole, norms and what is between them, by positions of the sequence."""

    def tactic(graph: ShardableGraph) -> list[Annotation]:
        normed = [op.operands[0] for op in graph.operations if op.name in _NORMS or _is_mean_of_features(graph, op)]
        return [
            _divide(graph, node, len(graph.shape(node)) - 2, axis, f"sequence({axis!r})")
            for node in dict.fromkeys(normed)
            if node is not None and len(graph.shape(node)) >= 3
        ]

    return tactic


def spatial(axis: str) -> Tactic:
    """Divides images by rows of pixels: the results of convolutions and poolings, by the first dimension that they go
    along. Ranks exchange the borders that they need of each other."""

    def tactic(graph: ShardableGraph) -> list[Annotation]:
        found = []
        for operation in graph.operations:
            node = operation.results[0]
            if operation.name in _ALONG and node is not None:
                dim = len(graph.shape(node)) - _ALONG[operation.name]
                if isinstance(node.meta["val"].shape[dim], int):  # else the batch determines it, and it stays whole
                    found.append(_divide(graph, node, dim, axis, f"spatial({axis!r})"))
        return found

    return tactic


def zero(axis: str, least: int = 1024) -> Tactic:
    """Keeps parameters divided (ZeRO-3, FSDP): they are gathered for use, and their gradients reduce-scattered.

    Args:
        least: numbers of elements below which a parameter is kept whole.
    """

    def tactic(graph: ShardableGraph) -> list[Annotation]:
        found = []
        size = graph.ranks(axis)
        for node in graph.values:
            shape = graph.shape(node)
            if not graph.is_parameter(node) or node.meta["val"].numel() < least:
                continue
            dim = next((dim for dim, length in enumerate(shape) if length % size == 0), 0)
            found.append(_divide(graph, node, dim, axis, f"zero({axis!r})", spreads=False))
        return found

    return tactic


def from_tp_plan(plan: Mapping[str, str], axis: str) -> Tactic:
    """A Hugging Face model's `_tp_plan`, or its configuration's `base_model_tp_plan`, as annotations: of the weights of
    modules, or of parameters, by name. Where a plan says how results are laid out, or what travels, nothing is to be
    said: that follows. Experts are divided by experts, where a plan cuts each of them: a rank has as much of them.

    Raises:
        ValueError: when it is applied: a style is unknown, or no name is of anything. (Plans name what some models of
            their kind have not.)
    """

    if not isinstance(plan, Mapping):
        raise ValueError(f"tp_plan: is {plan!r}; it must name modules and styles (not all models bring a plan along)")

    def tactic(graph: ShardableGraph) -> list[Annotation]:
        found, of_experts = [], set(_parameters_of_experts(graph))
        for name, style in plan.items():
            if style not in _TP_STYLES:
                raise ValueError(f"tp_plan: {name} is {style!r}; known are {', '.join(_TP_STYLES)}")
            if (dim := _TP_STYLES[style]) is None:
                continue
            for node in _weights(graph, name):
                dims = len(node.meta["val"].shape)
                if dims > 1:
                    label = f"tp_plan[{name!r}] = {style!r}"
                    found.append(_divide(graph, node, 0 if node in of_experts else dim % dims, axis, label))
        if not found:
            raise ValueError(f"tp_plan: the model has no parameter of {', '.join(plan) or 'an empty plan'}")
        return found

    return tactic


_TP_STYLES: dict[str, int | None] = {
    "colwise": -2,
    "colwise_rep": -2,
    "colwise_gather_output": -2,
    "packed_colwise": -2,
    "rowwise": -1,
    "rowwise_rep": -1,
    "rowwise_split_input": -1,
    "packed_rowwise": -1,
    "embedding_rowwise": 0,
    "embedding_colwise": 1,
    "grouped_gemm": 0,
    "ep_dispatch_experts": None,
    "moe_tp_experts": None,
    "moe_identity_expert": None,
    "mla_kv_a_proj": None,
    "replicate": None,
    "replicated_with_grad_allreduce": None,
    "all_reduce": None,
    "sequence_parallel": None,
}
"""Which dimension of a weight a style divides; None for those that are about other things."""


def _weights(graph: ShardableGraph, name: str) -> list[fx.Node]:
    """The parameters that a name in a plan is of: of a module or a parameter, with or without the base model's name."""
    parameters = [(node, graph.captured.sources[node.name].key) for node in graph.values if graph.is_parameter(node)]
    for pattern in (f"{name}.weight", name, f"*.{name}.weight", f"*.{name}"):
        if found := [node for node, key in parameters if fnmatchcase(key, pattern)]:
            return found
    return []


Condition = Callable[[Operation], bool]


def _where(
    operation: Operation, results: Sequence[Sequence[Sequence[int]]], wanted: set[int], axis: str, label: str
) -> list[Annotation]:
    """The results' dimensions that begin with one of these factors."""
    found = []
    for node, dims in zip(operation.results, results, strict=True):
        for dim, factors in enumerate(dims):
            if node is not None and factors and factors[0] in wanted:
                spec = tuple(axis if other == dim else None for other in range(len(dims)))
                found.append(Annotation(node.name, spec, label=label))
    return found


def _divide(
    graph: ShardableGraph, node: fx.Node, dim: int, axis: str, label: str, *, spreads: bool = True
) -> Annotation:
    spec = tuple(axis if other == dim else None for other in range(len(node.meta["val"].shape)))
    return Annotation(graph.name(node), spec, spreads=spreads, label=label)


def _tables(graph: ShardableGraph) -> list[fx.Node]:
    """The large tables of embeddings that are parameters: those of words, not of positions or types."""
    tables = [
        table
        for operation in graph.operations
        if operation.name == "embedding" and (table := operation.operands[0]) is not None and graph.is_parameter(table)
    ]
    words = [table for operation in graph.operations for table in tables if _reads_inputs(graph, operation, table)]
    most = max((graph.shape(table)[0] for table in words), default=0)
    return [table for table in dict.fromkeys(words) if 4 * graph.shape(table)[0] >= most]


def _parameters_of_experts(graph: ShardableGraph) -> Iterator[fx.Node]:
    """Those of which each expert has its own."""
    for operation in graph.operations:
        if operation.name == "experts":
            given = [operation.operands[3 + number] for number in operation.arguments["of_experts"]]
            yield from (one for one in given if one is not None and graph.is_parameter(one))


def _reads_inputs(graph: ShardableGraph, operation: Operation, table: fx.Node) -> bool:
    """Whether an embedding reads a table by ids that are the batch's own, perhaps in another shape."""
    if operation.name != "embedding" or operation.operands[0] is not table:
        return False
    ids = operation.operands[1]
    while ids is not None and (called := operation_of(ids)) and called._schema.name.removeprefix("aten::") in _SAME_IDS:
        ids = ids.args[0] if isinstance(ids.args[0], fx.Node) else None
    return ids is not None and ids.op == "placeholder" and graph.captured.sources[ids.name].kind == "input"


def _is_mean_of_features(graph: ShardableGraph, operation: Operation) -> bool:
    """The mean of squares that begins a root mean square norm."""
    if operation.name != "mean" or operation.operands[0] is None:
        return False
    last = len(graph.shape(operation.operands[0])) - 1
    return operation.arguments.get("dim") in ([-1], [last]) and operation.arguments.get("keepdim") == [1]
