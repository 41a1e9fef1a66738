"""From a captured model and the prices of a cluster to the integer program of its layouts (layout_program.py).

1. Every operation's strategies (layouts.py) are priced as all plans are: `Timing` says what a rank's share of it takes,
   forward and backward, and the links what completes its sums.
2. *Followers* get no variable. An operation that only passes on one tensor, such as a view or an activation, is
   computed as that tensor lies: for each of its maker's choices the strategy is taken that then takes the least. So
   does a vector of parameters that a single operation takes: it lies as that needs it. Other parameters have variables:
   they may be kept divided though they are needed whole, to be gathered.
3. *Repeated layers* share their variables: of a run of operations that repeats, with the same calls and shapes, those
   at the same place have the same strategy. That is only a restriction, so how the layers are connected does not
   matter. A repeated run has two products with parameters at least, lest a product by columns and one by rows be tied.
4. *Reshards* are between a tensor's maker and all that take it; what is the same for all layers is added up. A sum of a
   parameter's gradient waits for the end of a step, and is divided by its micro-batches.
5. *Memory*: at each moment of the forward, what has been saved for the backward until then, and what is alive besides;
   and parameters, with their gradients and the optimizer's state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import fx

from merak.planner.collective_times import LinearTime
from merak.planner.device import Device
from merak.planner.layout_program import LayoutProgram, Memory, Numbers, Reshards, Variable, Vector
from merak.planner.layouts import Need, Strategies, Strategy, TensorLayout, Travel
from merak.planner.shared_work import Share, SharedWorkload
from merak.planner.timing import Links, Timing
from merak.planner.workload import Workload
from merak.sharding.program import Operation, ShardableGraph, nbytes_of

_LEAST_PRODUCTS = 2
"""In a repeated run of operations."""


@dataclass(frozen=True)
class Setting:
    """What a program is made for.

    Attributes:
        mesh: sizes of the axes by name.
        links: by axis, what collectives over it take.
        device: that computes.
        dtype: of products.
        rows: of a micro-batch.
        rows_over: names of the axes that may divide its rows.
        micro_batches: of a step.
        parameter_s_per_byte: seconds of a step for each byte of a rank's parameters: sums of gradients over replicas,
            and the optimizer.
        state_factor: bytes of parameters, gradients and the optimizer's state, for each byte of parameters.
        memory: at most so many bytes.
        passing: count what is alive for a moment in the forward, and not only what stays for the backward.
        clustered: repeated layers share their variables.
    """

    mesh: Mapping[str, int]
    links: Sequence[Links]
    device: Device
    dtype: torch.dtype
    rows: float
    rows_over: tuple[str, ...] = ()
    micro_batches: int = 1
    parameter_s_per_byte: float = 0.0
    state_factor: float = 4.0
    memory: float = float("inf")
    passing: bool = True
    clustered: bool = True


@dataclass
class Taken:
    """A tensor and who takes it: operations by number, and which of their operands it is."""

    node: fx.Node
    takers: list[tuple[int, int]] = field(default_factory=list)


class LayoutModel:
    """A model's program.

    Attributes:
        graph, strategies: over the mesh.
        options: by operation, its strategies.
        program: the numbers.
        variable_of: by operation, its variable, and by the variable's choices the strategies.
        layouts_of: by tensor that is made or is a parameter, its variable, and by that one's choices the layouts.
    """

    def __init__(self, workload: Workload, setting: Setting) -> None:
        self.workload, self.setting = workload, setting
        self.graph = ShardableGraph(workload.prepared, setting.mesh, workload.trainable)
        self.strategies = Strategies(self.graph, setting.rows_over)
        repeats = repeated(self._signatures(), self._products()) if setting.clustered else {}
        self.options: list[list[Strategy]] = []
        for number in range(len(self.graph.operations)):
            first = repeats.get(number)
            self.options.append(self.strategies.of(number) if first is None else self.options[first])
        self._taken = self._find_takers()
        self.alone_s = self._alone()
        self.variable_of: list[tuple[int, Numbers]] = []
        self.layouts_of: dict[fx.Node, tuple[int, list[TensorLayout]]] = {}
        self._names: list[str] = []
        self._sizes: list[int] = []
        self._make_variables(repeats)
        self.program = self._program()

    # Prices ----------------------------------------------------------------------------------------------------------

    def reshard_s(self, node: fx.Node, before: TensorLayout, partial: tuple[int, ...], need: Need) -> float:
        """Seconds of a micro-batch, forward and backward."""
        return sum(seconds for _, _, seconds in self.collectives(node, before, partial, need))

    def collectives(
        self, node: fx.Node, before: TensorLayout, partial: tuple[int, ...], need: Need
    ) -> Iterator[tuple[int, str, float]]:
        """The same, one by one: axis, kind and seconds."""
        has_gradient = node in self.workload.gradients or self._is_trained(node)
        for one in self.strategies.travels(node, before, partial, need, has_gradient=has_gradient):
            yield from self._priced(node, one)

    def _priced(self, node: fx.Node, travel: Travel) -> Iterator[tuple[int, str, float]]:
        is_parameter = self.graph.is_parameter(node)
        nbytes = nbytes_of(node) * (1.0 if is_parameter else self.setting.rows / self.workload.rows)
        waits = is_parameter and travel.only_sums
        for kind, share in ((travel.kind, travel.share), (travel.backward_kind, travel.backward_share)):
            if kind:
                latency, per_byte = self.setting.links[travel.axis](kind)
                seconds = per_byte * share * nbytes
                yield travel.axis, kind, seconds / self.setting.micro_batches if waits else latency + seconds

    def _is_trained(self, node: fx.Node) -> bool:
        return self.graph.is_parameter(node) and self.graph.captured.sources[node.name].key in self.workload.trainable

    def _alone(self) -> list[Vector]:
        """By operation and strategy: its own seconds, without what travels."""
        cuttable = self.workload.prepared.cuttable
        shared = SharedWorkload(self.workload)
        whole = dict(shared.shares)
        found: list[list[float]] = [[] for _ in self.options]
        for choice in range(max(map(len, self.options), default=0)):
            shared.shares = dict(whole)
            for number, options in enumerate(self.options):
                node = self.graph.operations[number].node
                if choice < len(options) and node in whole:
                    shared.shares[node] = self._share(number, options[choice])
            timed = Timing(shared).at(self.setting.rows, self.setting.device, self.setting.dtype, _no_link)
            total = timed.forward_s + timed.backward_input_s + timed.backward_weight_s
            for number, options in enumerate(self.options):
                if choice < len(options):
                    position = cuttable.position.get(self.graph.operations[number].node)
                    found[number].append(0.0 if position is None else float(total[position]))
        return [np.array(one) for one in found]

    def _share(self, number: int, strategy: Strategy) -> Share:
        node = self.graph.operations[number].node
        return Share(strategy.share, self.touched(number, strategy), (0.0,) * len(self.workload.work[node].saved))

    def touched(self, number: int, strategy: Strategy) -> dict[fx.Node, float]:
        """Of operands and results, which share an operation takes or makes."""
        operation = self.graph.operations[number]
        taken = [None if need is None else need.layout for need in strategy.needs]
        both = zip((*operation.results, *operation.operands), (*strategy.made, *taken), strict=True)
        return {
            node: self.strategies.share(node, layout)
            for node, layout in both
            if node is not None and layout is not None
        }

    def sum_s(self, number: int, strategy: Strategy) -> float:
        """Seconds that complete an operation's sum."""
        node, made, kept = self.graph.operations[number].results[0], strategy.made[0], strategy.kept[0]
        if not strategy.partial or node is None or made is None or kept is None:
            return 0.0
        return self.reshard_s(node, made, strategy.partial, Need(kept, ()))

    def kept_s(self, node: fx.Node, layout: TensorLayout) -> float:
        """A micro-batch's part of what a parameter takes once a step, if it is kept so."""
        per_byte = self.setting.parameter_s_per_byte / self.setting.micro_batches
        return per_byte * nbytes_of(node) * self.strategies.share(node, layout)

    # Variables -------------------------------------------------------------------------------------------------------

    def _make_variables(self, repeats: Mapping[int, int]) -> None:
        parameters = [node for node in self._taken if self.graph.is_parameter(node)]
        vectors = [node for node in parameters if self._follows_taker(node)]
        for node in parameters:
            if node not in vectors:
                self.layouts_of[node] = self._variable_of_parameter(node, repeats)
        for number, operation in enumerate(self.graph.operations):
            leader = self._leader(number)
            if leader is not None:
                variable, layouts = self.layouts_of[leader]
                choices = np.array([self._following(number, leader, layout) for layout in layouts])
            elif (first := repeats.get(number)) is not None and self._leader(first) is None:
                variable, choices = self.variable_of[first]
            else:
                count = len(self.options[number])
                variable, choices = self._new_variable(operation.node.name, count), np.arange(count)
            self.variable_of.append((variable, choices))
            for result, made in enumerate(operation.results):
                if made is not None and made in self.graph.number:
                    self.layouts_of[made] = variable, [self._kept(number, int(one), result) for one in choices]
        for node in vectors:
            ((number, operand),) = self._taken[node].takers
            variable, choices = self.variable_of[number]
            needs = [self.options[number][one].needs[operand] for one in choices]
            whole = self.strategies.whole(node)
            self.layouts_of[node] = variable, [whole if of is None else of.layout for of in needs]

    def _variable_of_parameter(self, node: fx.Node, repeats: Mapping[int, int]) -> tuple[int, list[TensorLayout]]:
        layouts = self.strategies.layouts(node)
        before = self._same_before(node, repeats)
        known = None if before is None else self.layouts_of.get(before)
        if known is not None and known[1] == layouts:
            return known
        return self._new_variable(node.name, len(layouts)), layouts

    def _new_variable(self, name: str, choices: int) -> int:
        self._names.append(name)
        self._sizes.append(choices)
        return len(self._names) - 1

    def _kept(self, number: int, choice: int, result: int) -> TensorLayout:
        kept = self.options[number][choice].kept[result]
        assert kept is not None, "a tensor has a layout"
        return kept

    def _follows_taker(self, node: fx.Node) -> bool:
        """Whether a parameter is a vector with one taker, which does not follow it."""
        takers = self._taken[node].takers
        return len(takers) == 1 and self._leader(takers[0][0]) is None and len(self.graph.shape(node)) < 2

    def _same_before(self, node: fx.Node, repeats: Mapping[int, int]) -> fx.Node | None:
        """The parameter at the same place in the first of repeated layers."""
        number, operand = self._taken[node].takers[0]
        if len(self._taken[node].takers) > 1 or number not in repeats:
            return None
        before = self.graph.operations[repeats[number]].operands[operand]
        return before if before in self._taken and len(self._taken[before].takers) == 1 else None

    def _leader(self, number: int) -> fx.Node | None:
        """The tensor that an operation follows, if it only passes that on."""
        operation, (factors, _, _) = self.graph.operations[number], self.strategies.cuts.rules[number]
        if any(kind != "pass" for _, kind in factors) or len(operation.results) != 1 or operation.name == "expand":
            return None
        given = [node for node in dict.fromkeys(operation.operands) if node is not None and self._varies(node)]
        tensors = [node for node in given if not self.graph.is_parameter(node)] or given
        if len(tensors) != 1 or (len(given) > 1 and nbytes_of(tensors[0]) < nbytes_of(operation.node)):
            return None
        return tensors[0]

    def _varies(self, node: fx.Node) -> bool:
        return node in self._taken

    def _following(self, number: int, leader: fx.Node, layout: TensorLayout) -> int:
        """The strategy that takes the least, if what it follows lies so."""
        seconds = list(self.alone_s[number])
        operation = self.graph.operations[number]
        for choice, strategy in enumerate(self.options[number]):
            for node, need in zip(operation.operands, strategy.needs, strict=True):
                if node is leader and need is not None:
                    seconds[choice] += self.reshard_s(leader, layout, (), need)
        return int(np.argmin(seconds))

    def _find_takers(self) -> dict[fx.Node, Taken]:
        """Of all that operations make, and parameters."""
        found: dict[fx.Node, Taken] = {}
        made = {node for operation in self.graph.operations for node in operation.results if node is not None}
        for number, operation in enumerate(self.graph.operations):
            for at, node in enumerate(operation.operands):
                if node is not None and (node in made or self.graph.is_parameter(node)) and node in self.graph.number:
                    found.setdefault(node, Taken(node)).takers.append((number, at))
        return found

    # Repeated layers -------------------------------------------------------------------------------------------------

    def _signatures(self) -> list[str]:
        return [_signature(self.graph, operation) for operation in self.graph.operations]

    def _products(self) -> list[bool]:
        """Which operations are products with parameters."""
        return [
            any(kind == "reduce" for _, kind in factors)
            and any(node is not None and self.graph.is_parameter(node) for node in operation.operands)
            for operation, (factors, _, _) in zip(self.graph.operations, self.strategies.cuts.rules, strict=True)
        ]

    # The program -----------------------------------------------------------------------------------------------------

    def _program(self) -> LayoutProgram:
        seconds = [np.zeros(size) for size in self._sizes]
        for number, (variable, choices) in enumerate(self.variable_of):
            sums = np.array([self.sum_s(number, strategy) for strategy in self.options[number]])
            seconds[variable] += (self.alone_s[number] + sums)[choices]
        found: dict[tuple[object, ...], Reshards] = {}
        for node in filter(self.graph.is_parameter, self._taken):
            variable, layouts = self.layouts_of[node]
            seconds[variable] += [self.kept_s(node, layout) for layout in layouts]
        for node in self._taken:
            self._add_reshards(self._reshards(node), seconds, found)
        variables = tuple(Variable(*pair) for pair in zip(self._names, seconds, strict=True))
        return LayoutProgram(variables, tuple(found.values()), self._memory())

    def _reshards(self, node: fx.Node) -> Reshards:
        """Of a tensor."""
        source, layouts = self.layouts_of[node]
        rows: dict[TensorLayout, int] = {}
        of_source = np.array([rows.setdefault(one, len(rows)) for one in layouts])
        columns: dict[Need, int] = {}
        targets = {}
        for number, operand in self._taken[node].takers:
            variable, choices = self.variable_of[number]
            needs = [self.options[number][one].needs[operand] for one in choices]
            of_target = np.array([columns.setdefault(one, len(columns)) for one in needs if one is not None])
            targets[variable, of_target.tobytes()] = variable, of_target
        seconds = np.array([[self.reshard_s(node, row, (), need) for need in columns] for row in rows])
        return Reshards(source, of_source, tuple(targets.values()), seconds)

    def _add_reshards(self, one: Reshards, seconds: list[Vector], found: dict[tuple[object, ...], Reshards]) -> None:
        if not one.seconds.any():
            return
        if all(target == one.source for target, _ in one.targets):
            chosen = [0] * len(seconds)
            for choice in range(len(seconds[one.source])):
                chosen[one.source] = choice
                seconds[one.source][choice] += one.of(chosen)
            return
        key = one.source, one.of_source.tobytes(), *((target, of.tobytes()) for target, of in one.targets)
        known = found.get(key)
        found[key] = (
            one if known is None else Reshards(one.source, one.of_source, one.targets, known.seconds + one.seconds)
        )

    def _memory(self) -> Memory:
        from merak.planner.layout_memory import memory_of

        return memory_of(self)

    @property
    def sizes(self) -> Sequence[int]:
        """By variable, how many choices it has."""
        return self._sizes

    @property
    def taken(self) -> Mapping[fx.Node, Taken]:
        """By tensor, who takes it."""
        return self._taken


def repeated(signatures: Sequence[str], is_product: Sequence[bool]) -> dict[int, int]:
    """Of operations that repeat earlier ones, by number, the first of them.

    The run that covers most is found first, the one with the shortest period of these, and then others on both sides.

    Args:
        signatures: equal where operations are.
        is_product: a run has two of these at least.
    """
    numbers = np.unique(np.array(signatures), return_inverse=True)[1] if len(signatures) else np.zeros(0, dtype=int)
    products = np.cumsum([0, *is_product])
    found: dict[int, int] = {}
    spans = [(0, len(signatures))]
    while spans:
        begin, end = spans.pop()
        best = max(_runs(numbers, products, begin, end), default=None)
        if best is None:
            continue
        covered, period, first = best[0], -best[1], best[2]
        found.update({first + at: first + at % period for at in range(period, covered)})
        spans += [(begin, first), (first + covered, end)]
    return found


def _runs(numbers: Numbers, products: Numbers, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """How much it covers, the period's negative, and where it begins."""
    for period in range(1, (end - begin) // 2 + 1):
        equal = numbers[begin : end - period] == numbers[begin + period : end]
        breaks = np.flatnonzero(np.concatenate([[True], ~equal, [True]]))
        for left, right in zip(breaks[:-1].tolist(), breaks[1:].tolist(), strict=True):
            length, first = right - left - 1, begin + left
            if length >= period and products[first + period] - products[first] >= _LEAST_PRODUCTS:
                yield (length // period + 1) * period, -period, first


def _signature(graph: ShardableGraph, operation: Operation) -> str:
    """The same for operations that have the same strategies at the same price."""
    tensors = [
        None
        if node is None or node not in graph.number
        else (graph.shape(node), str(node.meta["val"].dtype), node in graph.free, graph.is_parameter(node))
        for node in (*operation.operands, *operation.results)
    ]
    return repr((operation.name, len(operation.operands), tensors, sorted(operation.arguments.items())))


def _no_link(kind: str) -> LinearTime:
    raise AssertionError(f"nothing travels, and {kind} was asked for")
