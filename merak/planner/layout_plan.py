"""Layouts found by the integer program, as a user and an engine see them.

layout_model.py makes the program of a model on a mesh, and layout_program.py solves it. What comes out is said as
annotations of all tensors (merak.sharding), each dimension closed, so that completing a sharding from them gives these
layouts and no others. A dimension that is a product, and is not divided along its major factor, is left open: an
annotation cannot say where it is cut, and what is next to it does.

Layouts leave it to the completion how an operation computes: it takes the way with the fewest bytes, products the one
that divides them most (csrc/sharding/assign.h), where the program counts seconds. So solutions are *settled*: a
sharding is completed from them and priced as those of tactics are. If some operations then compute otherwise, and it
costs more, the strategies that were meant become dearer by as much, and the program is solved again. The cheapest one
counts.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import fx

from merak.planner.cluster import Cluster
from merak.planner.collective_times import LinearTime
from merak.planner.layout_memory import largest
from merak.planner.layout_model import LayoutModel, Setting
from merak.planner.layout_program import LayoutProgram, Solution, solve
from merak.planner.layouts import Need, Strategy
from merak.planner.shared_work import SharedWorkload
from merak.planner.timing import Links, Timing
from merak.planner.workload import Workload
from merak.sharding.annotations import Annotation, Dim, Entry, Tactic
from merak.sharding.program import ShardableGraph
from merak.sharding.width import AXIS

LABEL = "layouts found"
_ROUNDS, _TOLERANCE = 6, 1e-4
"""How often a program is solved until it is settled, and within which share that is so."""


class LayoutsDoNotFitError(ValueError):
    """No layouts fit; the text says by how much, at which operation, and what is alive there.

    Attributes:
        missing_bytes: by which the least that is possible is above the limit.
        operation: at which the peak is.
    """

    def __init__(self, text: str, missing_bytes: float, operation: str) -> None:
        super().__init__(text)
        self.missing_bytes, self.operation = missing_bytes, operation


@dataclass(frozen=True)
class FoundLayouts:
    """What ranks that share a model's layers do.

    Attributes:
        mesh: sizes of the axes by name.
        strategies: by operation and axis, what of it is divided; axes over which all compute the same are missing.
        specifications: by tensor, an entry for each dimension, as annotations have it.
        compute_s: of a micro-batch, forward and backward.
        travel_s: the same of collectives, by axis and kind.
        once_s: its part of what parameters take once a step: sums over replicas, and the optimizer.
        memory_bytes: at the peak, with parameters, gradients and the optimizer's state.
        peak: the operation in whose forward that is.
        settled_s: what a micro-batch takes of a sharding completed from the annotations, by the same prices; None for a
            mesh of several axes.
        gap: the share of the seconds that better layouts could save at most; 0 where these are proven to be the best.
        method: how they were found.
        variables: that the program had, of so many `operations`.
        build_s, solve_s: that making the program and solving it took.
    """

    mesh: Mapping[str, int]
    strategies: Mapping[str, Mapping[str, str]]
    specifications: Mapping[str, tuple[Entry, ...]]
    compute_s: float
    travel_s: Mapping[tuple[str, str], float]
    once_s: float
    memory_bytes: float
    peak: str
    settled_s: float | None
    gap: float
    method: str
    variables: int
    operations: int
    build_s: float
    solve_s: float

    @property
    def seconds(self) -> float:
        """Of a micro-batch."""
        return self.compute_s + sum(self.travel_s.values()) + self.once_s

    def annotations(self) -> list[Annotation | Tactic]:
        """For `merak.parallelize` and `merak.sharding.complete`.

        Of a graph of the same model that has other operations, as that of its evaluation has, only parameters and what
        has the same name and as many dimensions are annotated.
        """

        return [self.of]

    def of(self, graph: ShardableGraph) -> list[Annotation]:
        """The same as a tactic.

        Raises:
            ValueError: the graph is on another mesh.
        """
        if math.prod(graph.mesh.values()) != math.prod(self.mesh.values()):
            raise ValueError(
                f"layouts were found for a mesh {dict(self.mesh)}, and this one is {dict(graph.mesh)}: find them for "
                "it, or plan without sub-batches"
            )
        found = []
        for node in graph.values:
            name = graph.name(node)
            spec = self.specifications.get(name)
            if spec is not None and node not in graph.free and len(spec) == len(node.meta["val"].shape):
                found.append(Annotation(name, spec, label=LABEL))
        return found

    def explain(self) -> str:
        """In words: seconds by what they go into, memory, and how sure this is."""
        lines = [f"{self.seconds:.3e} s a micro-batch, of which {self.compute_s:.3e} s computation"]
        for (axis, kind), seconds in sorted(self.travel_s.items(), key=lambda pair: -pair[1]):
            lines.append(f"  {kind} over {axis}: {seconds:.3e} s")
        lines.append(f"{self.memory_bytes / 1e9:.3f} GB at the peak, in {self.peak}")
        proof = "proven to be the best" if self.gap == 0 else f"at most {self.gap:.2%} from the best"
        lines.append(
            f"{self.variables} variables for {self.operations} operations; by {self.method}, {proof}; "
            f"{self.build_s + self.solve_s:.2f} s"
        )
        return "\n".join(lines)


def find_layouts(workload: Workload, setting: Setting, *, solver: bool | None = None) -> FoundLayouts:
    """The layouts with which a micro-batch takes the least time.

    Args:
        solver: use HiGHS (scipy); if it is installed, by default. Else a built-in search.

    Raises:
        LayoutsDoNotFitError: none fit into the memory.
    """
    began = time.perf_counter()
    model = LayoutModel(workload, setting)
    built = time.perf_counter()
    program, bound, found = model.program, 0.0, []
    for number in range(_ROUNDS):
        solution = solve(program, solver=solver)
        if solution is None:
            raise _does_not_fit(model)
        bound = bound if number else solution.bound
        one = _found(model, solution, built - began)
        if tuple(setting.mesh) != (AXIS,):
            found.append(one)
            break
        shared = SharedWorkload(workload, setting.mesh[AXIS], annotations=one.annotations())
        found.append(replace(one, settled_s=settled_s(shared, setting)))
        others = _otherwise(model, solution.chosen, shared)
        excess = (found[-1].settled_s or 0.0) - one.seconds
        if not others or excess <= _TOLERANCE * one.seconds:
            break
        program = _dearer(program, others, excess)
    best = min(found, key=lambda one: one.settled_s or one.seconds)
    gap = max(0.0, 1 - bound / (best.settled_s or best.seconds)) if best.seconds else 0.0
    gap = 0.0 if gap <= _TOLERANCE else gap
    return replace(best, gap=gap, solve_s=time.perf_counter() - built)


def settled_s(shared: SharedWorkload, setting: Setting) -> float:
    """Seconds of a micro-batch of a workload that ranks share, with its part of what comes once a step."""
    links = setting.links[0]
    timed = Timing(shared).at(setting.rows, setting.device, setting.dtype, links)
    once = shared.summed * links("all_reduce")[1] + shared.parameter_bytes * setting.parameter_s_per_byte
    return timed.seconds + once / setting.micro_batches


def _otherwise(model: LayoutModel, chosen: Sequence[int], shared: SharedWorkload) -> list[tuple[int, int]]:
    """Variables and choices, for each operation of which ranks have other parts than was meant."""
    found = []
    for number, (variable, choices) in enumerate(model.variable_of):
        share = shared.shares.get(model.graph.operations[number].node)
        meant = model.touched(number, model.options[number][choices[chosen[variable]]])
        if share is not None and any(abs(share.touched.get(node, of) - of) > _TOLERANCE for node, of in meant.items()):
            found.append((variable, chosen[variable]))
    return found


def _dearer(program: LayoutProgram, others: Sequence[tuple[int, int]], excess: float) -> LayoutProgram:
    variables = list(program.variables)
    for variable, choice in others:
        seconds = variables[variable].seconds.copy()
        seconds[choice] += excess / len(others)
        variables[variable] = replace(variables[variable], seconds=seconds)
    return replace(program, variables=tuple(variables))


def links_of(cluster: Cluster, devices: Sequence[int], mesh: Mapping[str, int]) -> list[Links]:
    """By axis, what collectives of these devices take, which are the mesh's ranks, the last axis going fastest. All
    groups along an axis have theirs at the same time, and share their hosts' links."""
    return [
        _link_along(cluster, torch.tensor(list(devices)).reshape(*mesh.values()), axis) for axis in range(len(mesh))
    ]


def _link_along(cluster: Cluster, devices: torch.Tensor, axis: int) -> Links:
    groups = devices.movedim(axis, -1).reshape(-1, devices.shape[axis]).tolist()
    first = groups[0]
    hosts = {cluster.host_of(one) for one in first}
    here = cluster.host_of(first[0])
    sharing = sum(any(cluster.host_of(one) == here for one in group) for group in groups) if len(hosts) > 1 else 1

    def link(kind: str) -> LinearTime:
        return cluster.linear_time(kind, first[:2] if kind == "send" else first, sharing)

    return link


def _found(model: LayoutModel, solution: Solution, build_s: float) -> FoundLayouts:
    chosen = solution.chosen
    options = [
        model.options[number][choices[chosen[variable]]] for number, (variable, choices) in enumerate(model.variable_of)
    ]
    alive = model.program.memory.at(chosen)
    peak = int(alive.argmax()) if len(alive) else 0
    names = list(model.graph.mesh)
    return FoundLayouts(
        mesh=dict(model.graph.mesh),
        strategies={
            model.graph.operations[number].node.name: _in_words(model, number, one, names)
            for number, one in enumerate(options)
        },
        specifications={model.graph.name(node): _specification(model, node, chosen) for node in model.layouts_of},
        compute_s=float(
            sum(
                of[model.variable_of[number][1][chosen[model.variable_of[number][0]]]]
                for number, of in enumerate(model.alone_s)
            )
        ),
        travel_s=_travel_s(model, options, chosen),
        once_s=sum(
            model.kept_s(node, layouts[chosen[variable]])
            for node, (variable, layouts) in model.layouts_of.items()
            if model.graph.is_parameter(node)
        ),
        memory_bytes=float(alive[peak]) if len(alive) else 0.0,
        peak=model.program.memory.moments[peak] if len(alive) else "",
        settled_s=None,
        gap=solution.gap,
        method=solution.method,
        variables=len(model.program.variables),
        operations=len(model.options),
        build_s=build_s,
        solve_s=0.0,
    )


def _travel_s(model: LayoutModel, options: Sequence[Strategy], chosen: Sequence[int]) -> dict[tuple[str, str], float]:
    total: dict[tuple[str, str], float] = defaultdict(float)
    names = list(model.graph.mesh)
    for number, one in enumerate(options):
        node = model.graph.operations[number].results[0]
        if one.partial and node is not None and one.made[0] is not None and one.kept[0] is not None:
            for axis, kind, seconds in model.collectives(node, one.made[0], one.partial, Need(one.kept[0], ())):
                total[names[axis], kind] += seconds
    for node, taken in model.taken.items():
        variable, layouts = model.layouts_of[node]
        needs = {options[number].needs[operand] for number, operand in taken.takers}
        for need in needs - {None}:
            assert need is not None, "left out"
            for axis, kind, seconds in model.collectives(node, layouts[chosen[variable]], (), need):
                total[names[axis], kind] += seconds
    return dict(total)


def _specification(model: LayoutModel, node: fx.Node, chosen: Sequence[int]) -> tuple[Entry, ...]:
    variable, layouts = model.layouts_of[node]
    names = list(model.graph.mesh)
    entries: list[Entry] = []
    for dim in layouts[chosen[variable]]:
        axes = tuple(names[axis] for of_atom in dim for axis in of_atom)
        may_be_cut_elsewhere = bool(axes) and not dim[0]
        entries.append(None if may_be_cut_elsewhere else Dim(axes, closed=True))
    return tuple(entries)


def _in_words(model: LayoutModel, number: int, strategy: Strategy, names: Sequence[str]) -> dict[str, str]:
    """By axis."""
    factors, _, results = model.strategies.cuts.rules[number]
    found = {}
    for factor, divided in enumerate(strategy.divided):
        dims = [dim for dim, of in enumerate(results[0] if results else []) if factor in of]
        for axis in (axis for axes in divided for axis in axes):
            where = f"dimension {dims[0]} of the result" if dims else f"what it {_VERBS[factors[factor][1]]}"
            found[names[axis]] = where
    return found


_VERBS = {"reduce": "sums over", "partial": "looks up", "inside": "reduces", "pass": "passes on"}


def _does_not_fit(model: LayoutModel) -> LayoutsDoNotFitError:
    memory = model.program.memory
    chosen, moment = model.program.least_memory()
    alive = memory.at(chosen)
    moment = int(alive.argmax()) if alive[moment] <= memory.limit else moment
    operation, missing = memory.moments[moment], float(alive[moment] - memory.limit)
    tensors = ", ".join(f"{name} ({nbytes / 1e6:.3f} MB)" for name, nbytes in largest(model, chosen, operation))
    ranks = " x ".join(f"{size} over {name}" for name, size in model.graph.mesh.items())
    return LayoutsDoNotFitError(
        f"no layouts fit: divided as far as possible over {ranks} ranks, the forward of {operation} has "
        f"{alive[moment]:.0f} bytes alive with parameters, gradients and the optimizer's state, {missing:.0f} bytes "
        f"more than the limit of {memory.limit:.0f}. The largest are {tensors}. Use smaller micro-batches, more ranks, "
        "or recomputation",
        missing,
        operation,
    )
