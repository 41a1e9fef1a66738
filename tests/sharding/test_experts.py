"""Experts that are divided over ranks: each row goes to its experts and back, wherever they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import fx, nn

from merak import sharding
from merak.graph import CaptureError, prepare
from merak.graph.experts import Experts
from merak.sharding.experts import ExpertsOfPart
from merak.sharding.lower import lower
from merak.sharding.parts import Place
from tests.backend.harness import Context
from tests.engine import zoo

Runner = Callable[..., list[Any]]


def feed_forward(experts: int, features: int, inner: int) -> Experts:
    """Experts of two products each, with biases."""
    graph = fx.Graph()
    rows, numbers, ends, up, bias, down = (
        graph.placeholder(one) for one in ("rows", "numbers", "ends", "up", "bias", "down")
    )
    product = torch.ops.merak.experts_product.default
    wide = graph.call_function(product, (rows, up, ends))
    biased = graph.call_function(torch.add, (wide, graph.call_function(torch.ops.aten.index.Tensor, (bias, [numbers]))))
    graph.output(graph.call_function(product, (graph.call_function(torch.tanh, (biased,)), down, ends)))
    return Experts(fx.GraphModule(nn.Module(), graph), experts, [0, 1, 2])


def case(seed: int, ranks: int) -> dict[str, Any]:
    """Of random sizes: fewer experts than ranks, ranks without rows, experts that nobody chooses."""
    random = torch.Generator().manual_seed(seed)
    number = lambda least, most: int(torch.randint(least, most + 1, (), generator=random))  # noqa: E731
    experts, k, features, inner = number(1, 7), number(1, 3), number(1, 4), number(1, 4)
    shares = [number(0, 5) for _ in range(ranks)]
    rows = sum(shares)
    liked = number(1, experts)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    return {
        "experts": experts,
        "shares": shares,
        "x": tensor(rows, features),
        "index": torch.randint(0, liked, (rows, k), generator=random),
        "weights": tensor(rows, k),
        "given": [tensor(experts, features, inner), tensor(experts, inner), tensor(experts, inner, features)],
        "upstream": tensor(rows, features),
    }


def outcome(call: Any, x: torch.Tensor, index: torch.Tensor, weights: torch.Tensor, given: Any, upstream: Any) -> Any:
    leaves = [one.clone().requires_grad_() for one in (x, weights, *given)]
    made = call(leaves[0], index, *leaves[1:])
    return [made.detach(), *torch.autograd.grad((made * upstream).sum(), leaves)]


def on_ranks(context: Context, seeds: list[int]) -> list[Any]:
    group, ranks = dist.group.WORLD, context.world_size
    found = []
    for seed in seeds:
        made = case(seed, ranks)
        whole = feed_forward(made["experts"], 1, 1)
        mine = [made[name].split(made["shares"])[context.rank] for name in ("x", "index", "weights")]
        chunk = -(-made["experts"] // ranks)
        counts = [len(whole_range) for whole_range in torch.arange(made["experts"]).split(chunk)]
        counts += [0] * (ranks - len(counts))
        given = [one[context.rank * chunk : (context.rank + 1) * chunk] for one in made["given"]]
        part = ExpertsOfPart(whole, str(group.group_name), counts, context.rank)  # type: ignore[union-attr]
        upstream = made["upstream"].split(made["shares"])[context.rank]
        found.append(outcome(part, *mine, given, upstream))
    return found


@pytest.mark.parametrize("ranks", [2, 3])
def test_rows_travel_to_their_experts(run: Runner, ranks: int) -> None:
    seeds = list(range(60))
    of_ranks = run(on_ranks, seeds, world_size=ranks, deadline=60)
    for seed in seeds:
        made = case(seed, ranks)
        whole = feed_forward(made["experts"], 1, 1)
        expected = outcome(whole, made["x"], made["index"], made["weights"], made["given"], made["upstream"])
        for number, one in enumerate(expected):
            found = torch.cat([of_rank[seed][number] for of_rank in of_ranks])
            torch.testing.assert_close(found, one, msg=f"seed {seed}, tensor {number}")


def completed(*annotations: Any) -> sharding.Completion:
    made = prepare(zoo.make("mixtral"), zoo.batch_of("mixtral", 2, 0))
    return sharding.complete(made, mesh={"dp": 2, "tp": 2}, annotations=annotations)


def test_two_all_to_alls_each_way() -> None:
    for more in ([], [sharding.sequence("tp")]):
        found = [one for one in completed(sharding.megatron("tp"), *more).reshards() if not one.parameter]
        assert Counter(one.kind for one in found)["all-to-all"] == 2 * zoo.LAYERS
        assert Counter(one.backward_kind for one in found)["all-to-all"] == 2 * zoo.LAYERS
    divided = completed(sharding.megatron("tp"))
    assert not divided.without_rules()
    for name in ("gate_up_proj", "down_proj"):
        assert f"model.layers.0.mlp.experts.{name}" in divided.explain()


def test_experts_alone() -> None:
    """Over the axis that divides the batch, as GShard does."""
    annotation = sharding.annotate("model.layers.*.mlp.experts.gate_up_proj", ("dp", None, None))
    found = completed(sharding.batch("dp"), annotation)
    (down,) = (one for one in found.graph.values if one.name.endswith("layers_0_mlp_experts_down_proj"))
    assert found.layout_text(down) == "(dp, -, -)"
    kinds = Counter(one.kind for one in found.reshards() if not one.parameter and one.kind)
    assert kinds == {"all-to-all": 2 * zoo.LAYERS, "all-reduce": 1}, "and the loss"


def test_over_several_axes_they_are_refused() -> None:
    annotation = sharding.annotate("model.layers.*.mlp.experts.gate_up_proj", (("dp", "tp"), None, None))
    with pytest.raises(CaptureError, match="divide experts over several axes"):
        lower(completed(annotation), [Place(0, 2, "dp"), Place(0, 2, "tp")])
