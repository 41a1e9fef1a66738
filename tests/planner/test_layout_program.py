"""Programs of layouts, solved and beside all choices that there are."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from merak.planner.layout_model import repeated
from merak.planner.layout_program import LayoutProgram, Memory, Reshards, Solution, Variable, solve
from merak.planner.layout_search import search

SEEDS = range(60)
LARGE = range(5)


def random_program(seed: int, most: int = 8, choices: int = 4) -> LayoutProgram:
    """A graph of operations whose tensors go to later ones, some to several, some to the maker's own variable."""
    choice = random.Random(seed)
    sizes = [choice.randint(1, choices) for _ in range(choice.randint(1, most))]

    def draw(*shape: int) -> np.ndarray:
        flat = [choice.choice([0.0, choice.uniform(0, 1), choice.uniform(0, 5)]) for _ in range(math.prod(shape))]
        return np.array(flat).reshape(shape) * 1e-3

    reshards = []
    for source, size in enumerate(sizes):
        rows, columns = choice.randint(1, 3), choice.randint(1, 3)
        takers = [choice.randrange(source, len(sizes)) for _ in range(choice.choice([1, 1, 2, 3]))]
        targets = tuple((one, np.array([choice.randrange(columns) for _ in range(sizes[one])])) for one in takers)
        of_source = np.array([choice.randrange(rows) for _ in range(size)])
        reshards.append(Reshards(source, of_source, targets, draw(rows, columns)))
    moments = choice.randint(1, 4)
    nbytes = tuple(1e9 * draw(moments, size) for size in sizes)
    names = tuple(f"moment {number}" for number in range(moments))
    variables = tuple(Variable(f"operation {number}", draw(size)) for number, size in enumerate(sizes))
    limit = choice.choice([math.inf, 1e6 * choice.uniform(0.5, 2) * len(sizes), 1e6 * choice.uniform(0, 6)])
    return LayoutProgram(variables, tuple(reshards), Memory(names, 1e5 * np.ones(moments), nbytes, limit))


def best_of_all(program: LayoutProgram) -> float:
    """By enumeration; infinite where nothing fits."""
    best = math.inf
    for chosen in itertools.product(*(range(len(one.seconds)) for one in program.variables)):
        if program.missing(chosen) <= 1e-6 * program.memory.limit:
            best = min(best, program.seconds(chosen))
    return best


def check(program: LayoutProgram, solution: Solution | None, best: float) -> None:
    if solution is None:
        assert math.isinf(best)
        return
    assert solution.seconds == pytest.approx(program.seconds(solution.chosen), rel=1e-9)
    assert program.missing(solution.chosen) <= 1e-6 * program.memory.limit
    assert solution.bound <= best * (1 + 1e-6) + 1e-12
    assert solution.gap == 0
    assert solution.seconds == pytest.approx(best, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_solver_agrees_with_enumeration(seed: int) -> None:
    pytest.importorskip("scipy")
    program = random_program(seed)
    print(f"seed {seed}: choices {[len(one.seconds) for one in program.variables]}, limit {program.memory.limit:.3g}")
    check(program, solve(program, solver=True), best_of_all(program))


@pytest.mark.parametrize("seed", SEEDS)
def test_search_agrees_with_enumeration(seed: int) -> None:
    program = random_program(seed)
    print(f"seed {seed}: choices {[len(one.seconds) for one in program.variables]}, limit {program.memory.limit:.3g}")
    check(program, solve(program, solver=False), best_of_all(program))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_search_that_is_cut_short_keeps_to_its_gap(seed: int) -> None:
    program = random_program(seed)
    best, solution = best_of_all(program), search(program, steps=0)
    print(f"seed {seed}: {solution and solution.seconds} of {best}")
    if solution is not None:
        assert program.missing(solution.chosen) <= 1e-6 * program.memory.limit
        assert solution.seconds * (1 - solution.gap) <= best * (1 + 1e-6) + 1e-12
        assert solution.seconds >= best * (1 - 1e-6) - 1e-12


@pytest.mark.parametrize("seed", LARGE)
def test_solver_and_search_agree_on_larger_programs(seed: int) -> None:
    pytest.importorskip("scipy")
    program = random_program(1000 + seed, most=60, choices=8)
    by_solver, by_search = solve(program, solver=True), solve(program, solver=False)
    print(f"seed {seed}: {len(program.variables)} variables: {by_solver}, {by_search}")
    if by_solver is None:
        assert by_search is None
    elif by_search is not None:
        assert by_search.seconds * (1 - by_search.gap) <= by_solver.seconds * (1 + 1e-5)
        assert by_search.seconds >= by_solver.seconds * (1 - by_solver.gap) * (1 - 1e-5)


def test_without_scipy_it_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = solve(random_program(0))
    assert found is not None
    assert found.method == "search"


def test_takers_of_the_same_layout_share_what_travels() -> None:
    same, other = np.array([0]), np.array([1])
    reshards = Reshards(0, np.array([0]), ((1, same), (2, same), (3, other)), np.array([[2.0, 5.0]]))
    assert reshards.of([0, 0, 0, 0]) == 7


def test_nothing_is_chosen_where_there_is_nothing() -> None:
    for solver in (True, False):
        if solver:
            pytest.importorskip("scipy")
        found = solve(LayoutProgram((), (), Memory((), np.zeros(0), ())), solver=solver)
        assert found is not None
        assert found.seconds == 0


@pytest.mark.parametrize(
    ("signatures", "products", "expected"),
    [
        ("abc", "", {}),
        ("xpqpqpqy", "pq", {3: 1, 4: 2, 5: 1, 6: 2}),
        ("papapapa", "p", {4: 0, 5: 1, 6: 2, 7: 3}),  # a run has two products
        ("pqpqzrsrs", "pqrs", {2: 0, 3: 1, 7: 5, 8: 6}),  # two runs
        ("abab", "", {}),
        ("", "", {}),
    ],
)
def test_repeated_operations_are_found(signatures: str, products: str, expected: dict[int, int]) -> None:
    assert repeated(list(signatures), [one in products for one in signatures]) == expected
