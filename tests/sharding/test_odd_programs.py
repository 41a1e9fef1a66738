"""Programs that whole models seldom have: writes through views, indices that fit partly, tables smaller than the mesh.

Each is run on parts, by ranks that are threads, and compared with the plain module, loss and gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from merak.graph import prepare
from merak.pipeline.microbatches import bind
from merak.sharding import annotate, batch, complete, megatron, sequence
from merak.sharding.local_values import give_values
from merak.sharding.lower import lower
from merak.sharding.parts import Place
from tests.engine import zoo
from tests.sharding.threads import on_mesh
from tests.sharding.whole import Outcome, bound, on_parts

Forward = Callable[["Program", torch.Tensor], torch.Tensor]
X = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Program(nn.Module):
    """Parameters a and p (6, 4), s (2, 4), and what is done with them; of the result, the sum of squares."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(2)
        for name, shape in (("a", (6, 4)), ("p", (6, 4)), ("s", (2, 4))):
            made = torch.randn(shape, dtype=torch.float64, generator=random)
            self.register_parameter(name, nn.Parameter(made))
        self.register_buffer("table", torch.randn(9, 4, dtype=torch.float64, generator=random))
        self.forward_of = forward

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss."""
        return {"loss": self.forward_of(self, x).square().sum()}


def written_between(m: Program, x: torch.Tensor) -> torch.Tensor:
    c = m.a * 2
    u = c + m.p
    c[:, 0] = 7.0
    return u * 2 + (c + m.p)


def written_row(m: Program, x: torch.Tensor) -> torch.Tensor:
    c = m.a.clone()
    c[1] = m.s[0]
    return c + m.p


def gathered(m: Program, x: torch.Tensor) -> torch.Tensor:
    return m.table.gather(1, (x * m.a).topk(2, 1)[1]) * m.p[:, :2]


def small_table(m: Program, x: torch.Tensor) -> torch.Tensor:
    return functional.embedding(torch.tensor([1, 0, 1]), torch.tanh(m.s)) + m.p[:3]


def pooled_without_rows(m: Program, x: torch.Tensor) -> torch.Tensor:
    return functional.adaptive_avg_pool1d(m.a * x, 2)


def heads_of_one(m: Program, x: torch.Tensor) -> torch.Tensor:
    keys = m.s.view(1, 2, 2, 2)
    return functional.scaled_dot_product_attention(m.a.view(3, 2, 2, 2), keys, keys)


def bits(m: Program, x: torch.Tensor) -> torch.Tensor:
    return (m.a + m.p) * ((m.a + m.p).detach().view(torch.int64) % 3).to(torch.float64)


PROGRAMS = [written_between, written_row, gathered, small_table, pooled_without_rows, heads_of_one, bits]
WISHES: dict[str, Sequence[Any]] = {
    "columns": [annotate("p", (None, "d"))],
    "rows": [annotate("p", ("d", None)), annotate("s", ("d", None))],
    "a": [annotate("a", ("d", None))],
    "batch": [batch("d")],
}


def divided(model: nn.Module, batch: Mapping[str, Any], mesh: Mapping[str, int], wishes: Any) -> list[Outcome]:
    """Of each rank."""
    made = prepare(model, batch)
    completion = complete(made, mesh=mesh, annotations=wishes)
    return on_mesh(completion.graph.mesh, lambda places: on_parts(model, completion, bound(made, batch), places))


@pytest.mark.filterwarnings("ignore:batch.* finds nothing to divide")  # programs without rows
@pytest.mark.parametrize("wishes", WISHES)
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("program", PROGRAMS)
def test_same_numbers(program: Forward, ranks: int, wishes: str) -> None:
    model = Program(program)
    loss = model(X)["loss"]
    names = [name for name, _ in model.named_parameters()]
    expected = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    for found, gradients in divided(model, {"x": X}, {"d": ranks}, WISHES[wishes]):
        assert found == pytest.approx(loss.item(), rel=1e-9)
        for name, theirs in zip(names, expected, strict=True):
            if theirs is not None:
                torch.testing.assert_close(gradients[name], theirs, msg=name)


@pytest.mark.parametrize(("name", "value"), [("labels", 1000), ("labels", -1), ("input_ids", 1000)])
def test_numbers_that_are_no_words_are_refused(name: str, value: int) -> None:
    """As PyTorch does for a whole vocabulary."""
    model, given = zoo.make("gpt2"), zoo.batch_of("gpt2", 2, 0)
    given[name] = given[name].clone()
    given[name][1, 2] = value
    with pytest.raises(IndexError, match=f"{value} is no word of a vocabulary"):
        divided(model, given, {"tp": 2}, [megatron("tp")])


def test_sizes_that_turn_out_to_be_equal_have_equal_chunks() -> None:
    """Ids and labels of a language model have symbols of their own until something adds the two up."""
    ids = torch.randint(3, 60, (4, 8), generator=torch.Generator().manual_seed(0))
    made = prepare(zoo.make("llama"), {"input_ids": ids, "labels": ids})
    completion = complete(made, mesh={"tp": 2}, annotations=[megatron("tp"), sequence("tp")])
    lowered = lower(completion, [Place(0, 2, "tp")], sums_at_end=True)
    give_values(lowered)
    sizes = bind(made.captured, {"input_ids": ids, "labels": ids}, 0).sizes
    for formula in lowered.captured.more_sizes.values():
        assert formula(sizes) == 4
