"""What is completed: exactly Megatron's collectives, with reasons; and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from merak import sharding
from merak.graph import prepare
from merak.sharding import Completion, Reshard
from merak.sharding.picture import bytes_of_modules
from tests.engine import zoo

MESH = {"dp": 2, "tp": 2}


def completed(name: str, *annotations: Any, training: bool = True) -> Completion:
    loss_fn = zoo.ZOO[name].loss_fn
    made = prepare(zoo.make(name), zoo.batch_of(name, 2, 0), loss_fn=loss_fn, training=training)
    return sharding.complete(made, mesh=MESH, annotations=annotations)


def travels(completion: Completion, *, parameters: bool = False) -> tuple[Counter[str], Counter[str]]:
    """Collectives of the forward, and of the backward."""
    found = [one for one in completion.reshards() if one.parameter == parameters]
    forward = Counter(one.kind for one in found if one.kind)
    return forward, Counter(one.backward_kind for one in found if one.backward_kind)


# Of each model: all-reduces of the forward and of the backward, as Megatron-LM would have them: one each a sublayer.
# One more in the forward is the lookup of words, one more in the backward the gradient of what the scores are made of.
MEGATRON = {
    "gpt2": (2 * zoo.LAYERS + 1, 2 * zoo.LAYERS + 1),
    "llama": (2 * zoo.LAYERS + 1, 2 * zoo.LAYERS + 1),
    "qwen3": (2 * zoo.LAYERS + 1, 2 * zoo.LAYERS + 1),
    "bert": (2 * zoo.LAYERS + 1, 2 * zoo.LAYERS + 1),
    "bloom": (zoo.LAYERS + 1, zoo.LAYERS + 1),  # its activation is an autograd.Function: nothing is known of it
    "opt": (2 * zoo.LAYERS + 1, 2 * zoo.LAYERS + 1),
    "vit": (2 * zoo.LAYERS, 2 * zoo.LAYERS + 1),
    # two layers each: encoder 2, decoder 3; two lookups; in the backward, the encoder's output and the scores
    "t5": (2 * 2 + 2 * 3 + 2, 2 * 2 + 2 * 3 + 1 + 1),
    "mixtral": (zoo.LAYERS + 1, zoo.LAYERS + 1),  # attention; of its experts below
}


@pytest.mark.parametrize("model", MEGATRON)
def test_megatrons_collectives_and_no_others(model: str) -> None:
    forward, backward = travels(completed(model, sharding.megatron("tp")))
    expected_forward, expected_backward = MEGATRON[model]
    of_experts: Counter[str] = Counter()
    if model == "mixtral":  # rows to their experts and back, and the result of all; its gradient, and the weights'
        of_experts = Counter({"all-to-all": 2 * zoo.LAYERS, "all-gather": zoo.LAYERS})
    assert forward == Counter({"all-reduce": expected_forward}) + of_experts
    of_experts["all-gather"] *= 2
    assert backward == Counter({"all-reduce": expected_backward}) + of_experts


@pytest.mark.parametrize("model", ["gpt2", "llama", "bert"])
def test_their_bytes(model: str) -> None:
    rows, length = zoo.batch_of(model, 2, 0)["input_ids"].shape
    activation = rows * length * zoo.HIDDEN * 4
    half = [one for one in completed(model, sharding.megatron("tp")).reshards() if not one.parameter]
    assert {one.nbytes for one in half if one.nbytes} == {activation}  # an all-reduce of two ranks sends each byte once
    assert {one.backward_nbytes for one in half if one.backward_nbytes} == {activation}


@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_sequences_that_are_divided_travel_in_halves(model: str) -> None:
    forward, backward = travels(completed(model, sharding.megatron("tp"), sharding.sequence("tp")))
    sublayers = 2 * zoo.LAYERS
    assert forward == {"all-gather": sublayers + 1, "reduce-scatter": sublayers + 1}
    assert backward["reduce-scatter"] == backward["all-gather"] - (model == "gpt2") == sublayers + 1


def test_data_parallelism_sums_gradients_and_nothing_else() -> None:
    completion = completed("gpt2", sharding.batch("dp"))
    forward, backward = travels(completion)
    assert forward == {"all-reduce": 1}, "the loss"
    assert backward.total() <= 2, "of positions, which are the same for all rows"
    _, of_parameters = travels(completion, parameters=True)
    assert set(of_parameters) == {"all-reduce"}


def test_parameters_that_are_kept_divided_are_gathered_once() -> None:
    completion = completed("llama", sharding.batch("dp"), sharding.zero("dp", least=64))
    forward, backward = travels(completion, parameters=True)
    matrices = [one for one in zoo.make("llama").parameters() if one.dim() == 2]
    assert forward == {"all-gather": len(matrices)}
    assert backward["reduce-scatter"] >= len(matrices) - 1, "the lookup of words may be repeated instead"


def test_one_weight_divides_its_half_of_a_block() -> None:
    completion = completed("llama", sharding.annotate("model.layers.*.self_attn.q_proj.weight", ("tp", None)))
    texts = {
        completion.graph.captured.sources[node.name].key: completion.layout_text(node)
        for node in completion.graph.values
        if completion.graph.is_parameter(node)
    }
    for layer in range(zoo.LAYERS):
        for name, text in {"q": "(tp, -)", "k": "(tp, -)", "v": "(tp, -)", "o": "(-, tp)"}.items():
            assert texts[f"model.layers.{layer}.self_attn.{name}_proj.weight"] == text
        assert texts[f"model.layers.{layer}.mlp.up_proj.weight"] == "(-, -)"


def test_a_fused_weight_is_divided_part_by_part() -> None:
    completion = completed("gpt2", sharding.megatron("tp"))
    node = next(one for one in completion.graph.values if "h_0_attn_c_attn_weight" in one.name)
    assert completion.layout_text(node) == "(-, 3 x tp)"


def test_a_tp_plan_of_hugging_face() -> None:
    plan = {
        "model.layers.*.self_attn.q_proj": "colwise",
        "model.layers.*.self_attn.k_proj": "colwise",
        "model.layers.*.self_attn.v_proj": "colwise",
        "model.layers.*.self_attn.o_proj": "rowwise",
        "model.layers.*.mlp.gate_proj": "colwise",
        "model.layers.*.mlp.up_proj": "colwise",
        "model.layers.*.mlp.down_proj": "rowwise",
    }
    forward, backward = travels(completed("llama", sharding.from_tp_plan(plan, "tp")))
    assert forward == backward == {"all-reduce": 2 * zoo.LAYERS}
    with pytest.raises(ValueError, match="diagonal"):
        completed("llama", sharding.from_tp_plan({"lm_head": "diagonal"}, "tp"))
    with pytest.raises(ValueError, match="no parameter of vision_tower"):
        completed("llama", sharding.from_tp_plan({"vision_tower": "colwise"}, "tp"))


@pytest.mark.parametrize("name", ["llama", "qwen3", "mixtral"])
def test_the_tp_plans_that_models_bring_along(name: str) -> None:
    model = zoo.make(name)
    for plan in (model._tp_plan, model.config.base_model_tp_plan):  # with the base model's name, and without
        forward, backward = travels(completed(name, sharding.from_tp_plan(plan, "tp")))
        vocabulary = any("embed_tokens" in module for module in plan)  # the lookup; backward, of what scores are made
        sums = (1 if name == "mixtral" else 2) * zoo.LAYERS + vocabulary
        assert forward["all-reduce"] == backward["all-reduce"] == sums
        assert forward["all-to-all"] == backward["all-to-all"] == (2 if name == "mixtral" else 0) * zoo.LAYERS


def test_it_says_why() -> None:
    completion = completed("gpt2", sharding.batch("dp"), sharding.megatron("tp"))
    text = completion.explain()
    assert "transformer.h.0.mlp.c_fc.weight" in text
    assert "megatron('tp')" in text
    reasons = [one for one in completion.reshards() if one.kind == "all-reduce" and one.axis == "tp"]
    assert all(isinstance(one, Reshard) and "sums over what is divided" in one.cause for one in reasons)


def test_what_has_no_rule_is_computed_whole_and_said_so() -> None:
    completion = completed("bloom", sharding.megatron("tp"))
    assert any("GeLU" in name for name in completion.without_rules())
    assert "has no rule" in completion.explain()
    assert not completed("llama", sharding.megatron("tp")).without_rules()


def test_the_picture(tmp_path: Path) -> None:
    completion = completed("gpt2", sharding.batch("dp"), sharding.megatron("tp"))
    rows = bytes_of_modules(completion)
    of_layers = rows["transformer.h.*.mlp.c_proj"]
    assert of_layers["forward", "tp"] == sum(
        one.nbytes for one in completion.reshards() if one.axis == "tp" and one.tensor in projections(completion)
    )
    assert of_layers["forward", "dp"] == 0
    completion.picture(tmp_path / "sharding.png")
    assert (tmp_path / "sharding.png").read_bytes().startswith(b"\x89PNG")


def projections(completion: Completion) -> set[str]:
    """Results of the products that end an MLP."""
    return {
        operation.node.name
        for operation in completion.graph.operations
        if any("mlp.c_proj" in str(path) for path, _ in (operation.node.meta.get("nn_module_stack") or {}).values())
    }


def test_what_an_earlier_tactic_settled_stays() -> None:
    wish = sharding.annotate("model.layers.0.mlp.up_proj.weight", (None, "tp"))
    with pytest.warns(UserWarning, match="is not followed"):
        completion = completed("llama", sharding.megatron("tp"), wish)
    assert completion.not_followed == ["annotate('model.layers.0.mlp.up_proj.weight', (None, 'tp'))"]
    assert "not followed" in completion.explain()


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> Any:
        """A number."""
        return {"loss": self.second(self.first(x).relu()).square().mean()}


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ([("first.weight", ("tp", "tp"))], "both ask for axis tp"),
        ([("first.weight", (("tp", "tp"), None))], "axis tp twice"),
        ([("first.weight", ("xp", None))], "no axis 'xp'"),
        ([("first.weight", ("tp",))], "has 2 dimensions"),
        ([("third.weight", ("tp", None))], "no tensor is called so"),
        ([("first.weight", "tp")], "an entry for each dimension"),
        ([("first.weight", (3, None))], "no entry"),
        ([("x", (None, "tp"))], "every rank has it whole"),
    ],
)
def test_bad_annotations_are_refused_by_name(annotations: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sharding.complete(
            Two(), {"x": torch.randn(4, 8)}, mesh=MESH, annotations=[sharding.annotate(*one) for one in annotations]
        )


@pytest.mark.parametrize("wish", ["megatron", sharding.megatron])
def test_what_is_no_annotation_is_refused(wish: Any) -> None:
    with pytest.raises(ValueError, match=r"annotations\[0\] is '?megatron'?; it must be"):
        sharding.complete(Two(), {"x": torch.randn(4, 8)}, mesh=MESH, annotations=[wish])


def test_both_annotations_that_contradict_are_named() -> None:
    one = sharding.annotate("first.weight", ("tp", None), priority=1)
    other = sharding.annotate("first.w*", ("dp", None), priority=1)
    with pytest.raises(ValueError, match=r"first\.weight.*first\.w\*.*contradict"):
        sharding.complete(Two(), {"x": torch.randn(4, 8)}, mesh=MESH, annotations=[one, other])
