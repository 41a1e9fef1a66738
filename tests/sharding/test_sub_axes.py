"""Parts of axes: annotations that name them, dimensions with fewer units than ranks, and the same numbers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import transformers
from torch import nn

import merak
from merak import sharding
from merak.sharding.picture import bytes_of_modules
from merak.sharding.sub_axes import meant, refine
from tests.backend.harness import Context

Runner = Callable[..., list[Any]]


def named(*names: str) -> list[tuple[str, str]]:
    return [(name, f"who says {name}") for name in names]


def test_a_mesh_is_cut_where_parts_begin_and_end() -> None:
    mesh = {"dp": 2, "tp": 8}
    assert refine(mesh, named("dp", "tp")) == mesh
    refined = refine(mesh, named("tp:(2)2", "tp"))
    assert refined == {"dp": 2, "tp:(1)2": 2, "tp:(2)2": 2, "tp:(4)2": 2}
    assert list(refined) == ["dp", "tp:(1)2", "tp:(2)2", "tp:(4)2"], "major to minor"
    assert [meant(refined, name) for name in ("dp", "tp", "tp:(1)4", "tp:(4)2")] == [[0], [1, 2, 3], [1, 2], [3]]
    assert meant(refined, "pp") == []


def test_random_parts_are_made_of_whole_axes_of_the_refined_mesh() -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(200):
        chain = [1]
        while len(chain) < rng.randint(2, 5):
            chain.append(chain[-1] * rng.choice([2, 3]))
        parts = []
        for _ in range(3):
            one, other = sorted(rng.sample(range(len(chain)), 2))
            parts.append((chain[one], chain[other] // chain[one]))
        refined = refine({"tp": chain[-1]}, named(*(f"tp:({before}){size}" for before, size in parts)))
        assert math.prod(refined.values()) == chain[-1]
        for before, size in parts:
            axes = meant(refined, f"tp:({before}){size}")
            sizes = list(refined.values())
            assert math.prod(sizes[axis] for axis in axes) == size
            assert math.prod(sizes[: axes[0]]) == before


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("tp:(1)3",), r"who says tp:\(1\)3: tp:\(1\)3 is no part of 'tp', which has 12 ranks|m times n"),
        (("tp:(5)2",), r"tp:\(5\)2 is no part of 'tp', which has 12 ranks"),
        (("tp:(1)1",), r"n is 2 or more"),
        (("pp:(1)2",), r"the mesh has no axis 'pp': it has 'tp'"),
        (("tp:(1)4", "tp:(1)6"), r"who says tp:\(1\)4 and who says tp:\(1\)6 name parts of 'tp' that overlap"),
    ],
)
def test_parts_that_make_no_sense_are_refused(parts: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refine({"tp": 12 if parts != ("tp:(1)3",) else 8}, named(*parts))


class Reshaped(nn.Module):
    """Of 8 x 8 elements whose rows lie on 8 ranks, seen as 4 x 16."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(8, 8))
        self.second = nn.Parameter(torch.randn(16, 3))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        seen = self.first.relu().view(4, 16)
        return {"loss": (x @ self.first).pow(2).mean() + (seen @ self.second).pow(2).mean()}


def test_a_reshape_may_divide_over_parts_of_an_axis() -> None:
    annotations = [sharding.annotate("first", ("tp", None)), sharding.annotate("view", ("tp:(1)4", None))]
    completion = sharding.complete(Reshaped(), {"x": torch.randn(4, 8)}, mesh={"tp": 8}, annotations=annotations)
    texts = {node.name: completion.layout_text(node) for node in completion.graph.values}
    assert texts["p_model_first"] == "(tp:(1)4*tp:(4)2, -)"
    assert texts["view"] == "(tp:(1)4, tp:(4)2)", "the rest of the rows became columns"
    needed = [one for one in completion.reshards() if one.tensor in ("relu", "view", "first", "second")]
    assert {one.kind for one in needed} <= {"", "all-reduce"}, "nothing has to be gathered for it"


def llama(kv_heads: int = 2) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=kv_heads,
        max_position_embeddings=32,
        use_cache=False,
        attention_bias=True,
    )
    return transformers.LlamaForCausalLM(config)


def batch(rows: int, seed: int = 0) -> dict[str, torch.Tensor]:
    ids = torch.randint(64, (rows, 12), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "labels": ids}


def test_heads_of_keys_that_are_fewer_than_ranks_are_shared() -> None:
    completion = sharding.complete(llama(), batch(2), mesh={"tp": 4}, annotations=[sharding.megatron("tp")])
    texts = {completion.name(node): completion.layout_text(node) for node in completion.graph.values}
    attention = "model.layers.1.self_attn"
    assert texts[f"{attention}.k_proj.weight"] == texts[f"{attention}.v_proj.weight"] == "(tp:(1)2, -)"
    assert texts[f"{attention}.k_proj.bias"] == "(tp:(1)2)"
    assert texts[f"{attention}.q_proj.weight"] == "(tp:(1)2*tp:(2)2, -)"
    whole = [one for one in completion.reshards() if one.axis == "tp" and not one.parameter]
    assert len(whole) == 2 * (2 + 2) + 2, "Megatron's sums, and the vocabulary's two"
    rest = {one.axis for one in completion.reshards() if not one.parameter} - {"tp"}
    assert rest == {"tp:(2)2"}, "and gradients of keys and values, of the ranks that have the same"


def test_heads_of_a_fused_projection_are_shared() -> None:
    config = transformers.GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=1, n_head=2, use_cache=False)
    model = transformers.GPT2LMHeadModel(config)
    completion = sharding.complete(model, batch(2), mesh={"tp": 4}, annotations=[sharding.megatron("tp")])
    texts = {completion.name(node): completion.layout_text(node) for node in completion.graph.values}
    assert texts["transformer.h.0.attn.c_attn.weight"] == "(-, 3 x tp:(1)2)"
    assert texts["transformer.h.0.attn.c_proj.weight"] == "(tp:(1)2, -)"
    assert texts["transformer.h.0.mlp.c_fc.weight"] == "(-, tp:(1)2*tp:(2)2)"
    assert not [one for one in completion.reshards() if "gather" in one.kind], "no head is cut"
    assert not completion.not_followed


def test_what_is_annotated_by_hand_comes_first() -> None:
    whole = sharding.annotate("*.k_proj.weight", (sharding.Dim(closed=True), None))
    completion = sharding.complete(llama(), batch(2), mesh={"tp": 4}, annotations=[whole, sharding.megatron("tp")])
    texts = {completion.name(node): completion.layout_text(node) for node in completion.graph.values}
    assert texts["model.layers.0.self_attn.k_proj.weight"] == "(-, -)"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (((1,), None), "is no entry"),
        ((sharding.Dim("tp"), None), "is no entry"),  # type: ignore[arg-type]
        (("tp(1)2", None), r"annotate\('\*.up_proj.weight'.*no axis 'tp\(1\)2'.*written axis:\(m\)n"),
    ],
)
def test_entries_that_make_no_sense_are_refused(spec: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sharding.complete(llama(), batch(2), mesh={"tp": 4}, annotations=[sharding.annotate("*.up_proj.weight", spec)])


def test_models_without_a_tp_plan_are_told() -> None:
    with pytest.raises(ValueError, match="not all models bring a plan along"):
        sharding.from_tp_plan(transformers.BertConfig().base_model_tp_plan, "tp")


def test_a_closed_annotation_is_followed_though_ranks_are_idle() -> None:
    over_all = sharding.Dim(("tp",), closed=True)
    wishes = [
        sharding.annotate("*.[qkv]_proj.weight", (over_all, None)),
        sharding.annotate("*.[qkv]_proj.bias", (over_all,)),
    ]
    wishes.append(sharding.annotate("*.o_proj.weight", (None, over_all)))
    completion = sharding.complete(llama(), batch(2), mesh={"tp": 4}, annotations=wishes)
    assert completion.graph.mesh == {"tp": 4}


def losses_of_module(context: Context) -> list[list[float]]:
    """Of the plain model and of the divided one, a few steps each; and what of the state dict differs then."""
    model = llama()
    completion = sharding.complete(model, batch(2), mesh={"tp": 4}, annotations=[sharding.megatron("tp")])
    mesh = dist.init_device_mesh("cpu", (4,), mesh_dim_names=("tp",))
    divided = sharding.ShardedModule(model, completion, mesh)
    found = []
    for one in (model, divided):
        optimizer = torch.optim.SGD(one.parameters(), 0.1)
        losses = []
        for step in range(3):
            loss = one(**batch(4, step))["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss))
        found.append(losses)
    state = divided.state_dict()
    worst = max(float((state[name].full_tensor() - one).abs().max().detach()) for name, one in model.named_parameters())
    return [*found, [worst]]


def test_a_divided_module_has_the_numbers_of_one_process(run: Runner) -> None:
    for plain, divided, (worst,) in run(losses_of_module, world_size=4, deadline=120):
        assert divided == pytest.approx(plain, rel=1e-5)
        assert worst < 1e-5


def losses_of_engine(context: Context, plan: dict[str, Any], annotations: list[Any]) -> list[list[float]]:
    """Of a plain loop and of an engine; and the norms of gradients, clipped by."""
    model = llama()
    plain, losses, norms = llama(), [], []
    optimizer = torch.optim.AdamW(plain.parameters(), 1e-2, eps=1e-4)
    for step in range(3):
        loss = plain(**batch(8, step)).loss
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(plain.parameters(), 0.5)))
        optimizer.step()
        losses.append(float(loss))
    engine = merak.parallelize(
        model,
        merak.Plan(**plan),
        batch(8),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, 1e-2, eps=1e-4),
        clip=0.5,
        annotations=annotations,
    )
    own, own_norms = [], []
    assert float(engine.eval_step(batch(8)).loss) == pytest.approx(losses[0], rel=1e-5), "another graph, divided alike"
    for step in range(3):
        own.append(engine.train_step(batch(8, step)))
        own_norms.append(float(engine.grad_norm))
    return [losses, own, norms, own_norms]


BY_PART = sharding.annotate("model.layers.*.mlp.down_proj.weight", (None, "tp:(2)2"))
PLANS = [
    ({"tp": (4, 2), "pp": 2, "microbatches": 4}, []),
    pytest.param({"tp": 4, "microbatches": 2}, [], marks=pytest.mark.slow),
    pytest.param({"tp": 4, "microbatches": 2, "sequence_parallel": True}, [], marks=pytest.mark.slow),
    pytest.param({"tp": 4, "microbatches": 2, "sub_batches": 2}, [], marks=pytest.mark.slow),
    pytest.param({"tp": 4, "dp": 2, "data_parallel": "zero1", "microbatches": 2}, [], marks=pytest.mark.slow),
    pytest.param({"tp": 4}, [BY_PART], marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("plan", "annotations"), PLANS, ids=lambda one: "-".join(one) if isinstance(one, dict) else "")
def test_an_engine_has_the_numbers_of_one_process(run: Runner, plan: dict[str, Any], annotations: list[Any]) -> None:
    ranks = sum(plan["tp"]) if isinstance(plan["tp"], tuple) else plan["tp"] * plan.get("dp", 1)
    for losses, own, norms, own_norms in run(losses_of_engine, plan, annotations, world_size=ranks, deadline=240):
        assert own == pytest.approx(losses, rel=1e-5)
        assert own_norms == pytest.approx(norms, rel=1e-4)


def engine_of(plan: dict[str, Any]) -> merak.Engine:
    return merak.parallelize(
        llama(), merak.Plan(**plan), batch(8), optimizer=lambda parameters: torch.optim.AdamW(parameters, 1e-2)
    )


def saved(context: Context, plan: dict[str, Any], path: Path) -> list[float]:
    """The losses behind a checkpoint."""
    engine = engine_of(plan)
    engine.train_step(batch(8, 0))
    engine.save(path)
    return [engine.train_step(batch(8, step)) for step in (1, 2)]


def resumed(context: Context, plan: dict[str, Any], path: Path) -> list[float]:
    engine = engine_of(plan)
    engine.load(path)
    return [engine.train_step(batch(8, step)) for step in (1, 2)]


@pytest.mark.slow
def test_checkpoints_of_shared_heads_fit_other_plans(run: Runner, tmp_path: Path) -> None:
    shared, others = {"tp": 4, "microbatches": 2}, [{"tp": 2, "pp": 2, "microbatches": 2}, {"tp": 1}]
    (losses, *_) = run(saved, shared, tmp_path / "shared", world_size=4, deadline=120)
    for plan in (*others, shared):
        ranks = plan["tp"] * plan.get("pp", 1)
        assert run(resumed, plan, tmp_path / "shared", world_size=ranks, deadline=120)[0] == pytest.approx(
            losses, rel=1e-5
        )


def test_the_picture_has_axes_and_their_parts(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    completion = sharding.complete(llama(), batch(2), mesh={"tp": 4}, annotations=[sharding.megatron("tp")])
    axes = {axis for row in bytes_of_modules(completion).values() for (_, axis), nbytes in row.items() if nbytes}
    assert {"tp"} < axes, "heads of keys are shared over a part of the axis"
    completion.picture(tmp_path / "sharding.svg")
    text = (tmp_path / "sharding.svg").read_text()
    assert all(f"<!-- {axis} -->" in text for axis in axes)
