"""Mixtures of experts: one operation of the graph, with the numbers of Hugging Face's loop over experts."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from merak._torch_graphs import fake_mode
from merak.graph import capture, prepare
from merak.graph.costs import measure
from merak.graph.experts import Experts, combine, dispatch, experts_marked, product
from merak.pipeline.microbatches import bind
from tests.graph.running import assert_same_gradients, plain_gradients, run

_SIZES = {
    "vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

# Gates in two halves; interleaved ones with biases and transposed matrices; shared experts; norms around.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("Mixtral", {"intermediate_size": 24, "num_local_experts": 5, "num_experts_per_tok": 2}),
    "gpt-oss": (
        "GptOss",
        {"intermediate_size": 24, "num_local_experts": 4, "num_experts_per_tok": 3, "head_dim": 4},
    ),
    "qwen2": (
        "Qwen2Moe",
        {
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 24,
            "num_experts": 3,
            "num_experts_per_tok": 1,
        },
    ),
    "olmoe": ("Olmoe", {"intermediate_size": 24, "num_experts": 6, "num_experts_per_tok": 4}),
}


def make(name: str, implementation: str = "eager") -> nn.Module:
    kind, more = MODELS[name]
    torch.manual_seed(3)
    config = getattr(transformers, f"{kind}Config")(**_SIZES, **more, experts_implementation=implementation)
    model: nn.Module = getattr(transformers, f"{kind}ForCausalLM")(config)
    for parameter in model.parameters():  # all that these leave zero, or uninitialised
        nn.init.normal_(parameter, std=0.1)
    return model


def batch(rows: int = 4) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 61, (rows, 7), generator=torch.Generator().manual_seed(rows))
    return {"input_ids": ids, "labels": ids}


def experts_of(model: nn.Module) -> list[Experts]:
    captured = prepare(model, batch()).captured
    return [node.target for node in captured.graph.nodes if isinstance(node.target, Experts)]


NAMES = [pytest.param(name, marks=() if name in ("mixtral", "gpt-oss") else pytest.mark.slow) for name in MODELS]


@pytest.mark.parametrize("name", NAMES)
def test_same_numbers_as_the_loop_over_experts(name: str) -> None:
    model = make(name)
    plain = copy.deepcopy(model)
    loss = plain(**batch(6)).loss
    expected = plain_gradients(plain, loss)
    found = run(model, batch(6), example=batch(), recomputed=[40])
    assert found.loss == pytest.approx(loss.item(), rel=1e-5)
    assert_same_gradients(found.gradients, expected)
    assert all(float(expected[key].norm()) > 0 for key in expected if "experts" in key)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", NAMES)
def test_each_mixture_is_one_operation(name: str) -> None:
    found = experts_of(make(name))
    assert [one.experts for one in found] == [make(name).model.layers[0].mlp.experts.num_experts] * 2  # type: ignore
    assert all(len(one.of_experts) == (4 if name == "gpt-oss" else 2) for one in found)


def test_models_are_left_as_they_were() -> None:
    model = make("mixtral", "grouped_mm")
    expected = model(**batch()).loss
    capture(model, batch())
    assert not any("forward" in vars(module) for module in model.modules())
    assert model(**batch()).loss == expected


def test_other_ways_of_hugging_faces_are_left_alone() -> None:
    model = make("mixtral")
    for way, marked in (("eager", 2), ("sonicmoe", 0)):
        model.config._experts_implementation = way  # type: ignore[union-attr]
        with experts_marked(model):
            assert sum("forward" in vars(module) for module in model.modules()) == marked


def test_flops_are_those_of_the_rows_that_experts_get() -> None:
    made = prepare(make("mixtral"), batch()).captured
    measured = measure(made, bind(made, batch(5), 0).sizes)
    flops = [measured.flops[node] for node in made.graph.nodes if isinstance(node.target, Experts)]
    assert flops == [2 * (5 * 7 * 2) * (16 * 48 + 24 * 16)] * 2


SEEDS = range(40)


@pytest.mark.parametrize("seed", SEEDS)
def test_products_are_those_of_a_loop(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    groups, inner, outer = (int(one) for one in torch.randint(1, 6, (3,), generator=random))
    counts = torch.randint(0, 4, (groups,), generator=random)
    rows = torch.randn(int(counts.sum()), inner, generator=random, dtype=torch.float64, requires_grad=True)
    matrices = torch.randn(groups, outer, inner, generator=random, dtype=torch.float64, requires_grad=True)
    ends = counts.cumsum(0).to(torch.int32)
    given = matrices.transpose(1, 2)
    expected = torch.cat([part @ one.t() for part, one in zip(rows.split(counts.tolist()), matrices, strict=True)])
    made = product(rows, given, ends)
    torch.testing.assert_close(made, expected, msg=f"seed {seed}")
    weights = torch.randn(made.shape, generator=random, dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad((made * weights).sum(), (rows, matrices)),
        torch.autograd.grad((expected * weights).sum(), (rows, matrices)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, msg=f"seed {seed}")


def test_the_product_keeps_pytorchs_rules_for_operations() -> None:
    rows = torch.randn(5, 3, requires_grad=True)
    matrices = torch.randn(4, 3, 2, requires_grad=True)
    ends = torch.tensor([2, 2, 4, 5], dtype=torch.int32)
    torch.library.opcheck(torch.ops.merak.experts_product.default, (rows, matrices, ends))


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_come_back_where_they_were(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    rows, k, experts = (int(one) for one in torch.randint(1, 5, (3,), generator=random))
    x = torch.randn(rows, 3, generator=random)
    index = torch.randint(0, experts, (rows, k), generator=random)
    weights = torch.rand(rows, k, generator=random)
    sent = dispatch(x, index, experts)
    assert sent.experts.tolist() == sorted(index.flatten().tolist())
    assert sent.ends.tolist() == [int((index <= expert).sum()) for expert in range(experts)]
    factors = torch.rand(experts, generator=random)
    expected = torch.stack(
        [
            sum((weights[row, j] * factors[index[row, j]] * x[row] for j in range(k)), torch.zeros(3))
            for row in range(rows)
        ]
    )
    found = combine(sent.rows * factors[sent.experts].unsqueeze(1), weights, sent.order)
    torch.testing.assert_close(found, expected, msg=f"seed {seed}")


def test_shapes_without_data() -> None:
    with fake_mode():
        sent = dispatch(torch.empty(6, 3), torch.empty(6, 2, dtype=torch.int64), 4)
        made = product(sent.rows, torch.empty(4, 3, 5), sent.ends)
        assert combine(made, torch.empty(6, 2), sent.order).shape == (6, 5)
