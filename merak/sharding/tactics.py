"""Ways to divide a whole model that have names. Each looks at the graph's operations, and at no model's layers.

Each is made by `_over`: it has a name for what is said of it, refuses an axis that the mesh has not, and says in its
`__doc__` what it looks for, for the case that there is nothing of the kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import fx

from merak.graph.randomness import operation_of
from merak.sharding.annotations import Annotation, Tactic, no_axis
from merak.sharding.program import Operation, ShardableGraph

_SAME_IDS = {"view", "reshape", "flatten", "unsqueeze", "to", "_to_copy", "contiguous", "clone", "slice"}
_NORMS = ("layer_norm", "rms_norm")
_ALONG = {f"{kind}{dims}d": dims for kind in ("conv", "max_pool", "avg_pool") for dims in (1, 2, 3)}
"""What goes along the last dimensions of a tensor, and along how many."""


def _over(axis: str, label: str, looks_for: str) -> Callable[[Tactic], Tactic]:
    """Makes a tactic over an axis of a function that finds annotations."""

    def decorate(find: Tactic) -> Tactic:
        def tactic(graph: ShardableGraph) -> Sequence[Annotation]:
            if not isinstance(axis, str):
                raise ValueError(f"{label}: {axis!r} is no axis of a mesh: give its name")
            try:
                graph.axis(axis)
            except ValueError as error:
                raise no_axis(label, error) from None
            return find(graph)

        tactic.__name__, tactic.__doc__ = label, looks_for
        return tactic

    return decorate


def batch(axis: str) -> Tactic:
    """Divides the batch: each rank computes its rows. Batch norms gather them for their statistics, and each rank goes
    on with its rows behind them."""
    label = f"batch({axis!r})"

    @_over(axis, label, "results that have the rows of the batch, of a model that takes any number of rows")
    def tactic(graph: ShardableGraph) -> list[Annotation]:
        return [_divide(graph, node, dim, axis, label) for node, dim in graph.results_of_rows()]

    return tactic


def megatron(axis: str, *, vocabulary: bool = True) -> Tactic:
    """Divides layers as Megatron-LM does: the first of two products by columns, heads included, the second by rows, and
    mixtures by experts.

    Args:
        vocabulary: divide tables of embeddings, and the scores of a cross entropy, by words.
    """

    label = f"megatron({axis!r})"

    @_over(axis, label, "pairs of linear layers as in attention and feed-forward blocks, tables of words, and experts")
    def tactic(graph: ShardableGraph) -> list[Annotation]:
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
    label = f"sequence({axis!r})"

    @_over(axis, label, "norms of tensors with three dimensions or more, of which the last but one has positions")
    def tactic(graph: ShardableGraph) -> list[Annotation]:
        normed = [op.operands[0] for op in graph.operations if op.name in _NORMS or _is_mean_of_features(graph, op)]
        return [
            _divide(graph, node, len(graph.shape(node)) - 2, axis, label)
            for node in dict.fromkeys(normed)
            if node is not None and len(graph.shape(node)) >= 3 and not graph.is_input(node)  # those are whole
        ]

    return tactic


def spatial(axis: str) -> Tactic:
    """Divides images by rows of pixels: the results of convolutions and poolings, by the first dimension that they go
    along. Ranks exchange the borders that they need of each other."""
    label = f"spatial({axis!r})"

    @_over(axis, label, "convolutions and poolings along dimensions whose sizes the batch leaves as they are")
    def tactic(graph: ShardableGraph) -> list[Annotation]:
        found = []
        for operation in graph.operations:
            node = operation.results[0]
            if operation.name in _ALONG and node is not None:
                dim = len(graph.shape(node)) - _ALONG[operation.name]
                if isinstance(node.meta["val"].shape[dim], int):  # else the batch determines it, and it stays whole
                    found.append(_divide(graph, node, dim, axis, label))
        return found

    return tactic


def zero(axis: str, least: int = 1024) -> Tactic:
    """Keeps parameters divided (ZeRO-3, FSDP): they are gathered for use, and their gradients reduce-scattered.

    Args:
        least: numbers of elements below which a parameter is kept whole.
    """
    label = f"zero({axis!r})"

    @_over(axis, label, f"parameters of {least} elements or more (least=...)")
    def tactic(graph: ShardableGraph) -> list[Annotation]:
        found = []
        size = graph.ranks(axis)
        for node in graph.values:
            shape = graph.shape(node)
            if not graph.is_parameter(node) or node.meta["val"].numel() < least:
                continue
            dim = next((dim for dim, length in enumerate(shape) if length % size == 0), 0)
            found.append(_divide(graph, node, dim, axis, label, spreads=False))
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

    @_over(axis, f"from_tp_plan(..., {axis!r})", "parameters that the plan names")
    def tactic(graph: ShardableGraph) -> list[Annotation]:
        found, of_experts = [], set(_parameters_of_experts(graph))
        for name, style in plan.items():
            if not isinstance(style, str) or style not in _TP_STYLES:
                raise ValueError(f"tp_plan: {name} is {style!r}; {_known_styles(style)}")
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


_STYLES_OF_TORCH = {"ColwiseParallel": "colwise", "RowwiseParallel": "rowwise", "SequenceParallel": "sequence_parallel"}


def _known_styles(style: object) -> str:
    """What a style may be instead."""
    known = f"known are the names {', '.join(_TP_STYLES)}"
    kind = style.__name__ if isinstance(style, type) else type(style).__name__
    return f"for torch's {kind} give {_STYLES_OF_TORCH[kind]!r}; {known}" if kind in _STYLES_OF_TORCH else known


def _weights(graph: ShardableGraph, name: str) -> list[fx.Node]:
    """The parameters that a name in a plan is of: of a module or a parameter, with or without the base model's name."""
    parameters = [(node, graph.captured.sources[node.name].key) for node in graph.values if graph.is_parameter(node)]
    for pattern in (f"{name}.weight", name, f"*.{name}.weight", f"*.{name}"):
        if found := [node for node, key in parameters if fnmatchcase(key, pattern)]:
            return found
    return []


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
