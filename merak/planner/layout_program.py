"""The integer program of layouts: what each operation's ranks do, so that a micro-batch takes the least time.

After Alpa (Zheng et al., Alpa: Automating Inter- and Intra-Operator Parallelism, OSDI 2022), section 4. Here it is
numbers only; layout_model.py makes it from a graph and the prices of a cluster.

A *variable* is an operation, or all the same ones of repeated layers, or a parameter that several operations take. It
has *choices*, each with seconds. *Reshards* are between a variable that makes a tensor and those that take it. A choice
of the former stands for a layout u, of the latter for a layout v, and [u, v] takes seconds; takers that need the same
share it, so it is paid once. *Memory* is counted at moments: a choice adds bytes to each, and the sum of each moment
may not be above a limit. The mesh has all its axes at once, since each axis alone would divide what divides best, and
all the same.

As an integer program,

    minimise    sum of seconds . s  +  sum of reshards . z
    such that   sum of s_i = 1                                      each variable has one choice
                sum over v of e[u, v] = sum of s_i with layout u    for each taker j of i's tensor, and each u
                sum over u of e[u, v] = sum of s_j with layout v    and each v
                z >= e of each taker                                takers of the same share
                sum of bytes . s <= limit                           at each moment

Only s is integer: with it e and z are. Edges are between layouts, of which there are fewer than choices, so the program
is small. Its linear relaxation is solved first. Mostly that is integral already, and then it is the optimum; else HiGHS
branches. Moments are added when a solution is above the limit there. Where scipy is not installed, `layout_search` does
it without a solver.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

_INTEGRAL = 1e-6
_GAP, _SECONDS = 1e-6, 60.0
"""Within which the optimum counts as proven, and how long HiGHS may branch."""
_UNIT = 1e6
"""The program is in microseconds, so that the solver's tolerances are small beside them."""


@dataclass(frozen=True)
class Variable:
    """What is chosen.

    Attributes:
        name: of the operation or parameter.
        seconds: by choice.
    """

    name: str
    seconds: Vector


@dataclass(frozen=True)
class Reshards:
    """What lies between who makes a tensor and who takes it.

    Attributes:
        source: the variable that makes it.
        of_source: by its choices, the layout's number u.
        targets: the variables that take it, each with the layout's number v by its choices.
        seconds: by u and v.
    """

    source: int
    of_source: Numbers
    targets: tuple[tuple[int, Numbers], ...]
    seconds: Vector

    def of(self, chosen: Sequence[int]) -> float:
        """Seconds, each layout that several need once."""
        row = self.seconds[self.of_source[chosen[self.source]]]
        return float(sum(row[v] for v in {int(layouts[chosen[target]]) for target, layouts in self.targets}))


@dataclass(frozen=True)
class Memory:
    """What is alive when.

    Attributes:
        moments: names of operations, in order.
        fixed: bytes by moment, whatever is chosen.
        nbytes: of each variable, by moment and choice.
        limit: at most so many at each moment.
    """

    moments: tuple[str, ...]
    fixed: Vector
    nbytes: tuple[Vector, ...]
    limit: float = float("inf")

    def at(self, chosen: Sequence[int]) -> Vector:
        """Bytes by moment."""
        total = self.fixed.copy()
        for of_variable, choice in zip(self.nbytes, chosen, strict=True):
            total += of_variable[:, choice]
        return total


@dataclass(frozen=True)
class LayoutProgram:
    """See above."""

    variables: tuple[Variable, ...]
    reshards: tuple[Reshards, ...]
    memory: Memory

    def seconds(self, chosen: Sequence[int]) -> float:
        """Of everything, if this is chosen."""
        alone = sum(float(one.seconds[choice]) for one, choice in zip(self.variables, chosen, strict=True))
        return alone + sum(one.of(chosen) for one in self.reshards)

    def missing(self, chosen: Sequence[int]) -> float:
        """Bytes above the limit, at the moment with the most."""
        return float((self.memory.at(chosen) - self.memory.limit).max(initial=0.0))

    def least_memory(self) -> tuple[tuple[int, ...], int]:
        """The choice that has the least alive at the moment that needs most whatever is chosen, and that moment."""
        memory = self.memory
        least = memory.fixed + sum((of.min(axis=1) for of in memory.nbytes), start=np.zeros(len(memory.fixed)))
        moment = int(least.argmax())
        return tuple(int(of[moment].argmin()) for of in memory.nbytes), moment


@dataclass(frozen=True)
class Solution:
    """What was chosen.

    Attributes:
        chosen: by variable.
        seconds: of it.
        bound: no choice takes less.
        method: how it was found: "linear relaxation", "integer program", "search"; "nothing to choose".
    """

    chosen: tuple[int, ...]
    seconds: float
    bound: float
    method: str

    @property
    def gap(self) -> float:
        """The share of the seconds that a better choice could save at most; 0 where there is none."""
        gap = 0.0 if self.seconds <= 0 else max(0.0, 1 - self.bound / self.seconds)
        return 0.0 if gap <= _GAP else gap


def has_solver() -> bool:
    """Whether scipy, which brings HiGHS, is installed."""
    return importlib.util.find_spec("scipy") is not None


def solve(program: LayoutProgram, *, solver: bool | None = None) -> Solution | None:
    """The choice that takes the least time; None if none is within the memory's limit.

    Args:
        solver: use scipy's HiGHS; if it is installed, by default.
    """
    if not program.variables:
        return None if program.missing(()) > 0 else Solution((), 0.0, 0.0, "nothing to choose")
    if solver if solver is not None else has_solver():
        return _Highs(program).solve()
    from merak.planner.layout_search import search

    return search(program)


class _Highs:
    """A program's columns and rows. Columns are s of all variables first, then e and z."""

    def __init__(self, program: LayoutProgram) -> None:
        self._program = program
        self._begins = np.cumsum([0, *(len(one.seconds) for one in program.variables)])
        self._costs = [one.seconds * _UNIT for one in program.variables]
        self._columns = int(self._begins[-1])
        self._entries: list[tuple[Numbers, Numbers, Vector]] = []
        self._low: list[float] = []
        self._high: list[float] = []
        for number, one in enumerate(program.variables):
            self._row(np.arange(len(one.seconds)) + self._begins[number], np.ones(len(one.seconds)), 1.0, 1.0)
        for reshards in program.reshards:
            self._add(reshards)

    def solve(self) -> Solution | None:
        """The linear relaxation, and if that is not integral the integer program; moments are added as needed."""
        added: set[int] = set()
        while True:
            found = self._best()
            if found is None:
                return None
            chosen, bound, method = found
            above = self._program.memory.at(chosen) - self._program.memory.limit
            worst = int(above.argmax()) if len(above) else 0
            tolerance = _GAP * self._program.memory.limit
            if not len(above) or above[worst] <= tolerance or worst in added:
                return Solution(chosen, self._program.seconds(chosen), bound, method)
            added.add(worst)
            self._limit(worst)

    def _best(self) -> tuple[tuple[int, ...], float, str] | None:
        relaxed = self._run(integer=False)
        if relaxed is None:
            return None
        values, bound = relaxed
        if np.abs(values - values.round()).max(initial=0.0) < _INTEGRAL:
            return self._chosen(values), bound, "linear relaxation"
        branched = self._run(integer=True)
        return None if branched is None else (self._chosen(branched[0]), branched[1], "integer program")

    def _chosen(self, values: Vector) -> tuple[int, ...]:
        return tuple(int(values[begin:end].argmax()) for begin, end in self._spans())

    def _spans(self) -> Iterator[tuple[int, int]]:
        yield from zip(self._begins[:-1].tolist(), self._begins[1:].tolist(), strict=True)

    def _row(self, columns: Numbers, factors: Vector, low: float, high: float) -> None:
        self._entries.append((np.full(len(columns), len(self._low)), columns, factors))
        self._low.append(low)
        self._high.append(high)

    def _new(self, costs: Vector) -> Numbers:
        """Columns with these costs."""
        first = self._columns
        self._columns += costs.size
        self._costs.append(costs.ravel() * _UNIT)
        return np.arange(first, self._columns).reshape(costs.shape)

    def _add(self, reshards: Reshards) -> None:
        several = len(reshards.targets) > 1
        shared = self._new(reshards.seconds) if several else None
        for target, layouts in reshards.targets:
            edges = self._new(np.zeros_like(reshards.seconds) if several else reshards.seconds)
            self._tie(edges, reshards.source, reshards.of_source)
            self._tie(edges.T, target, layouts)
            if shared is not None:
                for edge, one in zip(edges.ravel(), shared.ravel(), strict=True):
                    self._row(np.array([edge, one]), np.array([1.0, -1.0]), -np.inf, 0.0)

    def _tie(self, edges: Numbers, variable: int, layouts: Numbers) -> None:
        """Sums of edges by layout are what the variable's choices have of it."""
        for layout, of_layout in enumerate(edges):
            choices = np.flatnonzero(layouts == layout) + self._begins[variable]
            factors = np.concatenate([np.ones(len(of_layout)), -np.ones(len(choices))])
            self._row(np.concatenate([of_layout, choices]), factors, 0.0, 0.0)

    def _limit(self, moment: int) -> None:
        memory = self._program.memory
        nbytes = np.concatenate([of[moment] for of in memory.nbytes])
        room = memory.limit - memory.fixed[moment]
        scale = max(abs(room), 1.0)
        self._row(np.arange(len(nbytes)), nbytes / scale, -np.inf, room / scale)

    def _run(self, *, integer: bool) -> tuple[Vector, float] | None:
        """Values of s, and a bound in seconds; None if nothing is feasible."""
        from scipy import optimize, sparse  # type: ignore[import-untyped]

        rows, columns, factors = (np.concatenate(of) for of in zip(*self._entries, strict=True))
        matrix = sparse.csr_array((factors, (rows, columns)), shape=(len(self._low), self._columns))
        count = int(self._begins[-1])
        integrality = np.zeros(self._columns)
        integrality[:count] = integer
        result = optimize.milp(
            np.concatenate(self._costs),
            integrality=integrality,
            bounds=optimize.Bounds(0, np.where(np.arange(self._columns) < count, 1.0, np.inf)),
            constraints=optimize.LinearConstraint(matrix, self._low, self._high),
            options={"mip_rel_gap": _GAP / 10, "time_limit": _SECONDS},
        )
        if result.x is None:
            if result.status != 2:  # neither solved nor infeasible
                raise RuntimeError(f"HiGHS has not solved the program of layouts: {result.message}")
            return None
        bound = result.fun if result.mip_dual_bound is None or not integer else result.mip_dual_bound
        return np.asarray(result.x[:count]), float(bound) / _UNIT
