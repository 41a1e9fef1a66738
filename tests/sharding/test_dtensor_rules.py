"""Operations that merak has no rule for are divided as DTensor divides them, where that is safe."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import fx, nn

from merak import _C, sharding
from merak._torch_compat import torch_minor
from merak.graph import prepare
from merak.graph.losses import scales
from merak.pipeline.microbatches import bind, count_targets
from merak.sharding.completion import Completion
from merak.sharding.lower import lower
from merak.sharding.parts import Place
from merak.sharding.program import ShardableGraph
from tests.sharding import one_operation
from tests.sharding.calls import Drawn, called
from tests.sharding.operations import Draw
from tests.sharding.threads import on_mesh
from tests.sharding.whole import arguments

needs_rules = pytest.mark.skipif(
    tuple(map(int, torch_minor().split("."))) < (2, 15), reason="this torch's DTensor has rules for few operations"
)


def draw(seed: int = 0) -> Draw:
    return Draw(seed)


# Calls, and the operands' dimensions that may be divided: of each operand.
def calls() -> dict[str, tuple[Drawn, list[set[int]]]]:
    x, y, ids = draw().real(4, 6, 5), draw(1).real(4, 6, 5), draw().ids(5, 3)
    image = draw().real(4, 6, 8, 8)
    made: dict[str, tuple[list[Any], list[set[int]]]] = {
        "index_select": ([x, 2, ids], [{0, 1}, {0}]),
        "stack": ([[x, y], 1], [{0, 1, 2}, {0, 1, 2}]),
        "repeat": ([x, [2, 1, 1, 3]], [{0, 1}]),
        "scatter.src": ([x, 2, draw().ids(5, 4, 6, 2), y[..., :2].clone()], [{0, 1}, {0, 1}, {0, 1}]),
        "atan": ([x], [{0, 1, 2}]),
        "sinh": ([x], [{0, 1, 2}]),
        "logaddexp": ([x, y[:1]], [{0, 1, 2}, {1, 2}]),
        "linalg_cross": ([draw().real(4, 6, 3), draw(1).real(4, 6, 3)], [{0, 1}, {0, 1}]),
        "cummax": ([x, 1], [{0, 2}]),
        "median.dim": ([x, 1], [{0, 2}]),
        "max_pool2d_with_indices": ([image, [2, 2]], [{0}]),  # of no channels it takes nothing
        "native_layer_norm": ([x, [5], draw().real(5), draw(1).real(5), 1e-5], [{0, 1}, set(), set()]),
        "_safe_softmax": ([x, 2], [{0, 1}]),
        "dot": ([draw().whole(6), draw(1).whole(6)], [{0}, {0}]),
        "view_as_complex": ([draw().real(4, 6, 2)], [{0, 1}]),
        "grid_sampler_2d": ([image, draw().real(4, 3, 3, 2), 0, 0, False], [{0}, {0}]),
    }
    return {name: (Drawn(called(name), args), dims) for name, (args, dims) in made.items()}


def divided_dims(drawn: Drawn) -> list[set[int]]:
    """Of each operand, the dimensions that a rule lets be divided."""
    graph = ShardableGraph(one_operation.prepared(drawn), {"a": 2})
    factors, operands, _ = graph.rule(0)
    return [
        {dim for dim, of in enumerate(dims) if of and factors[of[0]][1] != "replicate"}
        for node, dims in zip(graph.operations[0].operands, operands, strict=True)
        if node is not None
    ]


@needs_rules
@pytest.mark.parametrize("name", calls())
def test_the_dimensions_that_are_divided(name: str) -> None:
    drawn, expected = calls()[name]
    assert drawn.name not in _C.sharding_rules(), "merak has a rule of its own"
    assert divided_dims(drawn) == expected


def layouts(drawn: Drawn, dims: list[set[int]]) -> list[list[list[int | None]]]:
    """Each dimension that may be divided, of one operand alone; and all operands divided at random."""
    alone = [
        [[dim if other == number else None] for other in range(len(dims))]
        for number, of in enumerate(dims)
        for dim in sorted(of)
    ]
    choice = random.Random(0)
    return alone + [[[choice.choice([None, *range(one.dim())])] for one in drawn.operands] for _ in range(3)]


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("name", calls())
def test_numbers_and_gradients(name: str, ranks: int) -> None:
    drawn, dims = calls()[name]
    expected = drawn.run(drawn.operands)
    has_gradients = any(one.is_floating_point() for one in expected)
    for divided in layouts(drawn, dims):
        found = one_operation.results_on_mesh(drawn, {"a": ranks}, divided)
        for one, two in zip(found, expected, strict=True):
            torch.testing.assert_close(one, two, equal_nan=True, msg=lambda text, at=divided: f"{at}: {text}")
        if has_gradients:
            gradients = one_operation.gradients_on_mesh(drawn, {"a": ranks}, divided)
            for one, two in zip(gradients, one_operation.gradients_of(drawn), strict=True):
                assert (one is None) == (two is None)
                if one is not None:
                    torch.testing.assert_close(one, two, msg=lambda text, at=divided: f"gradient, {at}: {text}")


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("new_zeros", [[4, 6, 5]]),
        ("expand_copy", [[4, 6, 5]]),
        ("as_strided", [[4, 6], [30, 5]]),
        ("multinomial", [1]),
        ("randint_like", [5]),
    ],
)
def test_calls_that_are_told_sizes_or_draw_are_never_divided(name: str, args: list[Any]) -> None:
    x = draw().real(4, 6).abs() + 1 if name == "multinomial" else draw().real(4, 6, 5)
    assert divided_dims(Drawn(called(name), [x, *args])) == [set()]


def test_what_writes_to_its_operand_is_never_divided() -> None:
    assert divided_dims(Drawn(called("index_fill_.int_Scalar"), [draw().real(4, 6), 0, draw().ids(4, 2), 1.0])) == [
        set(),
        set(),
    ]


class Selecting(nn.Module):
    """A model with operations that merak has no rule for."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.Linear(6, 8)
        self.register_buffer("order", torch.tensor([3, 1, 0]))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """A loss."""
        hidden = torch.atan(self.up(x)).index_select(2, self.order)
        both = torch.stack([hidden, hidden.cummax(2).values], 1)
        return {"loss": both.square().mean()}


@needs_rules
def test_a_graph_says_which_operations_are_divided_so() -> None:
    completion = sharding.complete(
        Selecting(), {"x": torch.randn(4, 5, 6)}, mesh={"a": 2}, annotations=[sharding.batch("a")]
    )
    assert set(completion.by_dtensor()) == {"atan", "index_select", "cummax", "stack"}
    assert not completion.without_rules()
    assert "divided by DTensor's rule: index_select: index_select" in completion.explain()


@needs_rules
@pytest.mark.parametrize("rows", [4, 5, 2])
def test_the_numbers_of_such_a_graph_for_other_batches(rows: int) -> None:
    model = Selecting()
    made = prepare(model, {"x": torch.randn(4, 5, 6)})
    given = {"x": torch.randn(rows, 5, 6)}
    part = bind(made.captured, given, 0)
    part.scales = scales(made.terms, count_targets(made.terms, [part]), part.rows, part.rows)
    completion = Completion(ShardableGraph(made, {"a": 3}), [sharding.batch("a")])

    def of_rank(places: list[Place]) -> tuple[float, torch.Tensor]:
        lowered = lower(completion, places)
        tensors = {("parameter", name): one.detach().clone().requires_grad_() for name, one in model.named_parameters()}
        tensors |= {("buffer", name): one for name, one in model.named_buffers()}  # type: ignore[misc]
        outputs = fx.Interpreter(fx.GraphModule({}, lowered.captured.graph)).run(
            *arguments(lowered.captured, part, tensors)
        )
        outputs[lowered.captured.loss].backward()
        return float(outputs[lowered.captured.loss].detach()), tensors["parameter", "up.weight"].grad

    model(**given)["loss"].backward()
    for loss, gradient in on_mesh({"a": 3}, of_rank):
        assert loss == pytest.approx(float(model(**given)["loss"].detach()))
        torch.testing.assert_close(gradient, model.up.weight.grad)
