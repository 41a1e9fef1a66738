"""The program of layouts solved without a solver: bucket elimination, and branch and bound with its bounds.

A *table* has the seconds of a few variables' choices together: of one alone, or of a tensor's maker and takers.

1. *Elimination*. Variables are eliminated one after the other, the one with the smallest table to come first. All
   tables of a variable are its *bucket*; their sum, minimised over the variable, is a *message*, a table of the others.
   At the end a number is left: the optimum, and going back each variable finds its best choice (dynamic programming;
   Dechter, Bucket elimination, 1999). Where a sum would be too large the bucket is divided into several, each
   minimised alone; then the number is a bound from below (mini-buckets).
2. *Memory* is priced: each moment above the limit gets a price of a byte, which choices pay. A bound with prices, less
   the price of the limit, is still one from below (Lagrange). Prices rise where a solution is above the limit.
3. *Descent* makes a solution better by one variable's choice at a time, or those of two that share a table, within the
   limit, from several beginnings.
4. *Branch and bound* goes through the variables in the order of 1 backwards. The messages bound what a beginning of
   choices can still come to; where that is not below the best solution it is given up. If it ends within a number of
   steps, the best solution is the optimum; else the gap to the bound is told.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from merak.planner.layout_program import LayoutProgram, Numbers, Reshards, Solution, Vector

_LARGEST = 1 << 18
"""Entries of a table."""
_PRICES, _BEGINNINGS, _STEPS = 40, 24, 30000


@dataclass(frozen=True)
class Table:
    """Seconds of several variables' choices together; a dimension for each."""

    variables: tuple[int, ...]
    seconds: Vector

    def at(self, chosen: Sequence[int]) -> float:
        """Of these choices."""
        return float(self.seconds[tuple(chosen[one] for one in self.variables)])

    def along(self, variable: int, chosen: Sequence[int]) -> Vector:
        """By one variable's choices, the others being as they are."""
        return self.seconds[tuple(slice(None) if one == variable else chosen[one] for one in self.variables)]


@dataclass
class Bucket:
    """A variable's tables when it is eliminated, and the messages that it leaves."""

    variable: int
    tables: list[Table]
    messages: list[Table] = field(default_factory=list)

    def along(self, chosen: Sequence[int]) -> Vector:
        """Its tables' sum by the variable's choices, the others being as they are."""
        total: Vector = np.zeros(1)
        for one in self.tables:
            total = total + one.along(self.variable, chosen)
        return total


@dataclass(frozen=True)
class Elimination:
    """Buckets in the order in which variables were eliminated, and what is left."""

    buckets: tuple[Bucket, ...]
    bound: float

    def decode(self) -> list[int]:
        """Each variable's best choice, going back."""
        chosen = [0] * len(self.buckets)
        for bucket in reversed(self.buckets):
            chosen[bucket.variable] = int(bucket.along(chosen).argmin())
        return chosen


def search(program: LayoutProgram, *, steps: int = _STEPS) -> Solution | None:
    """The best choice that is found; None if none is found within the memory's limit.

    Args:
        steps: that branch and bound may take.
    """
    return _Search(program).run(steps)


class _Search:
    """One search."""

    def __init__(self, program: LayoutProgram) -> None:
        self._program = program
        self._sizes = [len(one.seconds) for one in program.variables]
        self._tables = [one for reshards in program.reshards for one in _tables(reshards, self._sizes)]
        self._users: list[list[Reshards]] = [[] for _ in self._sizes]
        for reshards in program.reshards:
            for variable in {reshards.source, *(target for target, _ in reshards.targets)}:
                self._users[variable].append(reshards)
        self._random = random.Random(0)
        self._best: list[int] | None = None
        self._best_s = math.inf

    def run(self, steps: int) -> Solution | None:
        """All of it."""
        elimination, discount = self._priced()
        bound = elimination.bound - discount
        for beginning in self._beginnings(elimination):
            self._keep(self._descend(beginning))
        if bound < self._best_s * (1 - 1e-9):
            proven = _Branching(self, elimination, discount, steps).run()
            bound = self._best_s if proven else bound
        if self._best is None:
            return None
        return Solution(tuple(self._best), self._best_s, min(bound, self._best_s), "search")

    @property
    def program(self) -> LayoutProgram:
        """What is solved."""
        return self._program

    @property
    def best_s(self) -> float:
        """Of the best choice so far."""
        return self._best_s

    def keep(self, chosen: Sequence[int]) -> None:
        """Remembers it if it is the best so far."""
        self._keep(list(chosen))

    def _keep(self, chosen: list[int]) -> None:
        seconds = self._program.seconds(chosen)
        if seconds < self._best_s and self._fits(chosen):
            self._best, self._best_s = list(chosen), seconds

    def _fits(self, chosen: Sequence[int]) -> bool:
        return self._program.missing(chosen) <= 1e-6 * self._program.memory.limit

    def _eliminate(self, prices: Vector) -> Elimination:
        alone = [
            Table((number,), one.seconds + prices @ nbytes)
            for number, (one, nbytes) in enumerate(
                zip(self._program.variables, self._program.memory.nbytes, strict=True)
            )
        ]
        return eliminate([*alone, *self._tables], self._sizes)

    def _priced(self) -> tuple[Elimination, float]:
        """The elimination with the prices of memory that bound best, and what the limit costs at these."""
        memory = self._program.memory
        prices = np.zeros(len(memory.fixed))
        best = self._eliminate(prices), 0.0
        room = memory.limit - memory.fixed
        for number in range(_PRICES):
            found, discount = best if number == 0 else (self._eliminate(prices), float(prices @ room))
            if found.bound - discount > best[0].bound - best[1]:
                best = found, discount
            chosen = found.decode()
            self._keep(chosen)
            above = memory.at(chosen) - memory.limit if math.isfinite(memory.limit) else np.zeros(len(prices))
            if not len(above) or (above.max() <= 0 and not prices.any()):
                break
            slope = np.where((prices > 0) | (above > 0), above, 0.0)
            slope *= np.arange(len(slope)) == (int(above.argmax()) if above.max() > 0 else int(prices.argmax()))
            target = self._best_s if math.isfinite(self._best_s) else 2 * abs(self._program.seconds(chosen)) + 1e-9
            size = max(target - (found.bound - discount), 1e-12) / max(float(slope @ slope), 1e-300)
            prices = np.maximum(0.0, prices + size / (1 + number / 4) * slope)
        return best

    def _beginnings(self, elimination: Elimination) -> Iterator[list[int]]:
        yield elimination.decode()
        if self._best is not None:
            yield list(self._best)
        yield [int(of.mean(axis=0).argmin()) if len(of) else 0 for of in self._program.memory.nbytes]
        for _ in range(_BEGINNINGS):
            yield [
                self._random.randrange(size)
                if self._best is None or self._random.random() < 0.3
                else self._best[number]
                for number, size in enumerate(self._sizes)
            ]

    def _descend(self, chosen: list[int]) -> list[int]:
        """One variable at a time, until none is better elsewhere."""
        memory, waiting = self._program.memory, list(range(len(self._sizes)))
        alive = memory.at(chosen)
        while waiting:
            variable = waiting.pop(0)
            others = alive - memory.nbytes[variable][:, chosen[variable]]
            after = (others[:, None] + memory.nbytes[variable]).max(axis=0, initial=0.0)
            missing = np.maximum(0.0, after - memory.limit * (1 + 1e-6)) if math.isfinite(memory.limit) else 0 * after
            seconds = self._along(variable, chosen)
            key = list(zip(missing.tolist(), seconds.tolist(), strict=True))
            best = min(range(len(key)), key=key.__getitem__)
            if key[best] < key[chosen[variable]] and not np.allclose(key[best], key[chosen[variable]], rtol=1e-12):
                chosen[variable] = best
                alive = others + memory.nbytes[variable][:, best]
                near = {one for of in self._users[variable] for one in (of.source, *(t for t, _ in of.targets))}
                waiting += sorted(near - set(waiting))
        return chosen

    def _along(self, variable: int, chosen: list[int]) -> Vector:
        seconds = self._program.variables[variable].seconds.copy()
        trial = list(chosen)
        for choice in range(len(seconds)):
            trial[variable] = choice
            seconds[choice] += sum(one.of(trial) for one in self._users[variable])
        return seconds


class _Branching:
    """Depth first, in the order of elimination backwards."""

    def __init__(self, search: _Search, elimination: Elimination, discount: float, steps: int) -> None:
        self._search, self._order, self._left = search, elimination.buckets[::-1], steps
        self._begin = elimination.bound - discount
        memory = search.program.memory
        self._limit = memory.limit * (1 + 1e-6)
        least = [memory.nbytes[one.variable].min(axis=1, initial=np.inf) for one in self._order]
        self._later = [sum(least[depth:], start=memory.fixed * 0) for depth in range(1, len(least) + 1)]

    def run(self) -> bool:
        """Whether it has come to the end."""
        fixed = self._search.program.memory.fixed
        self._visit(0, self._begin, [0] * len(self._order), fixed)
        return self._left > 0

    def _visit(self, depth: int, bound: float, chosen: list[int], alive: Vector) -> None:
        if depth == len(self._order):
            self._search.keep(chosen)
            return
        bucket = self._order[depth]
        bounds = bound + bucket.along(chosen) - sum(one.at(chosen) for one in bucket.messages)
        nbytes = self._search.program.memory.nbytes[bucket.variable]
        for choice in np.argsort(bounds, kind="stable").tolist():
            if self._left <= 0 or bounds[choice] >= self._search.best_s * (1 - 1e-9):
                return
            now = alive + nbytes[:, choice]
            if len(now) and float((now + self._later[depth]).max()) > self._limit:
                continue
            self._left -= 1
            chosen[bucket.variable] = choice
            self._visit(depth + 1, float(bounds[choice]), chosen, now)


def eliminate(tables: Sequence[Table], sizes: Sequence[int]) -> Elimination:
    """All variables.

    Args:
        sizes: by variable, how many choices it has; each has a table at least.
    """
    alive, bound, buckets = list(tables), 0.0, []
    left = set(range(len(sizes)))
    while left:
        variable = min(left, key=lambda one: (_size_of_bucket(one, alive, sizes), one))
        left.remove(variable)
        bucket = Bucket(variable, [one for one in alive if variable in one.variables])
        alive = [one for one in alive if variable not in one.variables]
        for group in _mini_buckets(bucket.tables, sizes):
            together = _sum(group)
            message = together.seconds.min(axis=together.variables.index(variable))
            rest = tuple(one for one in together.variables if one != variable)
            bucket.messages.append(Table(rest, message))
            if rest:
                alive.append(bucket.messages[-1])
            else:
                bound += float(message)
        buckets.append(bucket)
    return Elimination(tuple(buckets), bound)


def _size_of_bucket(variable: int, tables: Sequence[Table], sizes: Sequence[int]) -> float:
    scope = {one for table in tables if variable in table.variables for one in table.variables}
    return math.prod(float(sizes[one]) for one in scope)


def _mini_buckets(tables: Sequence[Table], sizes: Sequence[int]) -> list[list[Table]]:
    """Groups whose sums are not too large; the widest tables first."""
    groups: list[tuple[set[int], list[Table]]] = []
    for table in sorted(tables, key=lambda one: -one.seconds.size):
        for scope, group in groups:
            if math.prod(sizes[one] for one in scope | set(table.variables)) <= _LARGEST:
                scope |= set(table.variables)
                group.append(table)
                break
        else:
            groups.append((set(table.variables), [table]))
    return [group for _, group in groups]


def _sum(tables: Sequence[Table]) -> Table:
    variables = tuple(sorted({one for table in tables for one in table.variables}))
    total: Vector = np.zeros((1,) * len(variables))
    for table in tables:
        total = total + _spread(table, variables)
    return Table(variables, total)


def _spread(table: Table, variables: tuple[int, ...]) -> Vector:
    """With a dimension for each of these variables, in their order."""
    order = sorted(range(len(table.variables)), key=lambda at: table.variables[at])
    shape = [table.seconds.shape[table.variables.index(one)] if one in table.variables else 1 for one in variables]
    return table.seconds.transpose(order).reshape(shape)


def _tables(reshards: Reshards, sizes: Sequence[int]) -> Iterator[Table]:
    """The table of a tensor's maker and takers; or, if it is too large, tables of pairs whose sum is not more."""
    scope = tuple(sorted({reshards.source, *(target for target, _ in reshards.targets)}))
    if math.prod(sizes[one] for one in scope) <= _LARGEST:
        yield Table(scope, _joint(reshards, scope, sizes))
        return
    for target in reshards.targets:
        pair = Reshards(reshards.source, reshards.of_source, (target,), reshards.seconds / len(reshards.targets))
        scope = tuple(sorted({pair.source, target[0]}))
        yield Table(scope, _joint(pair, scope, sizes))


def _joint(reshards: Reshards, scope: tuple[int, ...], sizes: Sequence[int]) -> Vector:
    def spread(variable: int, layouts: Numbers) -> Numbers:
        return layouts.reshape([sizes[one] if one == variable else 1 for one in scope])

    shape = tuple(sizes[one] for one in scope)
    row = spread(reshards.source, reshards.of_source)
    needed = [spread(variable, layouts) for variable, layouts in reshards.targets]
    total = np.zeros(shape)
    for number, of_target in enumerate(needed):
        is_new = np.ones(shape, dtype=bool)
        for before in needed[:number]:
            is_new &= of_target != before
        total += np.where(is_new, reshards.seconds[row, of_target], 0.0)
    return total
