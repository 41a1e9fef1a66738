"""Layers that ranks share: outputs, checkpoints, models without memory, annotations, and what is refused.

That training has the numbers of one process is in `test_parity`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import merak
from merak.engine import Engine, Plan
from merak.sharding import Dim, annotate
from tests.backend.harness import Context
from tests.engine import zoo

Runner = Callable[..., list[Any]]
Tensors = dict[str, torch.Tensor]
ROWS, BEFORE, AFTER = 4, 2, 2
PLANS = {
    "tp": Plan(tp=2, microbatches=2),
    "uneven": Plan(tp=3, microbatches=2),
    "sequence": Plan(tp=2, pp=2, microbatches=2, sequence_parallel=True),
    "zero1": Plan(dp=2, tp=2, microbatches=2, data_parallel="zero1"),
    "3d": Plan(dp=2, tp=2, pp=2, microbatches=2),
    "without": Plan(pp=2, microbatches=2),
}


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-2, eps=1e-4)


def share(plan: Plan, context: Context, batch: zoo.Batch) -> zoo.Batch:
    """What a rank's replica gets of a global batch."""
    replica = plan.place_of(context.rank)[1]
    return {key: value.tensor_split(plan.dp)[replica] for key, value in batch.items()}


def engine_of(context: Context, plan: Plan, model: str = "gpt2", **given: Any) -> Engine:
    example = share(plan, context, zoo.batch_of(model, ROWS, 0))
    return merak.parallelize(zoo.make(model), plan, example, **({"optimizer": adamw} | given))


# Outputs -------------------------------------------------------------------------------------------------------------


def evaluate(context: Context, plan: Plan, model: str) -> tuple[float | None, torch.Tensor, torch.Tensor]:
    engine = engine_of(context, plan, model)
    batch = share(plan, context, zoo.batch_of(model, ROWS, 1))
    evaluation = engine.eval_step(batch)
    ids = {key: value for key, value in batch.items() if key != "labels"}
    return evaluation.loss, evaluation.output.logits, engine.forward(ids).logits


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("uneven", "llama"),
        pytest.param("uneven", "gpt2", marks=pytest.mark.slow),
        pytest.param("sequence", "llama", marks=pytest.mark.slow),
        pytest.param("sequence", "gpt2", marks=pytest.mark.slow),
    ],
)
def test_outputs_are_whole(run: Runner, name: str, model: str) -> None:
    plain, batch = zoo.make(model).eval(), zoo.batch_of(model, ROWS, 1)
    with torch.no_grad():
        expected = plain(**batch)
    for loss, logits, without_labels in run(evaluate, PLANS[name], model, world_size=PLANS[name].world_size):
        assert loss == pytest.approx(float(expected.loss), rel=1e-5)
        torch.testing.assert_close(logits, expected.logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(without_labels, expected.logits, rtol=1e-4, atol=1e-5)


# Checkpoints ---------------------------------------------------------------------------------------------------------


def train_and_save(context: Context, plan: Plan, path: Path) -> tuple[list[float], Tensors, list[float | None]]:
    engine = engine_of(context, plan, clip=0.5)
    batches = [share(plan, context, zoo.batch_of("gpt2", ROWS, step)) for step in range(BEFORE + AFTER)]
    for batch in batches[:BEFORE]:
        engine.train_step(batch)
    engine.save(path)
    plain = zoo.make("gpt2")
    engine.gather_into(plain)
    gathered = {name: one.detach().clone() for name, one in plain.named_parameters()}
    losses, norms = [], []
    for batch in batches[BEFORE:]:
        losses.append(engine.train_step(batch))
        norms.append(engine.grad_norm)
    return losses, gathered, norms


def resume(context: Context, plan: Plan, path: Path) -> tuple[list[float], list[float | None]]:
    engine = engine_of(context, plan, clip=0.5)
    engine.load(path)
    losses, norms = [], []
    for step in range(BEFORE, BEFORE + AFTER):
        losses.append(engine.train_step(share(plan, context, zoo.batch_of("gpt2", ROWS, step))))
        norms.append(engine.grad_norm)
    return losses, norms


def load_plain(context: Context, path: Path) -> Tensors:
    plain = zoo.make("gpt2")
    merak.engine.load_into(plain, path)
    return {name: one.detach() for name, one in plain.named_parameters()}


@pytest.mark.parametrize(
    ("first", "others"),
    [("3d", ["uneven", "without"]), pytest.param("without", ["3d", "sequence", "zero1"], marks=pytest.mark.slow)],
)
def test_checkpoints_know_no_plan(run: Runner, tmp_path: Path, first: str, others: Sequence[str]) -> None:
    through = run(train_and_save, PLANS[first], tmp_path / "saved", world_size=PLANS[first].world_size)
    wanted, _, norms = through[0]
    for name in others:
        for losses, found in run(resume, PLANS[name], tmp_path / "saved", world_size=PLANS[name].world_size):
            assert losses == pytest.approx(wanted, rel=1e-5)
            assert found == pytest.approx(norms, rel=1e-4)
    (plain,) = run(load_plain, tmp_path / "saved", world_size=1)
    for _, gathered, _ in through:
        for name, parameter in plain.items():
            assert torch.equal(gathered[name], parameter), name


def save_row_wise(context: Context, path: Path) -> str:
    engine = engine_of(context, PLANS["tp"], optimizer=torch.optim.Adafactor)
    engine.train_step(zoo.batch_of("gpt2", ROWS, 0))
    try:
        engine.save(path)
    except ValueError as error:
        return str(error)
    return ""


def test_state_of_optimizers_that_nobody_could_put_together_is_refused(run: Runner, tmp_path: Path) -> None:
    for text in run(save_row_wise, tmp_path / "saved", world_size=2):
        assert "the optimizer keeps row_var of shape" in text
        assert "use an optimizer that keeps a value for each element" in text


# Models without memory -----------------------------------------------------------------------------------------------


def take_values(context: Context, plan: Plan) -> tuple[float, float, str]:
    batch = {"x": torch.ones(4, 6)}
    engine = merak.parallelize(Blocks(), plan, batch, optimizer=adamw)
    other = Blocks()
    with torch.no_grad():
        for number, parameter in enumerate(other.parameters()):
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter) / (number + 1))
        wanted = float(other(**batch)["loss"])
    engine.take_from(other)
    text = ""
    try:
        engine.take_from(torch.nn.Linear(2, 2))
    except ValueError as error:
        text = str(error)
    return engine.eval_step(batch).loss or 0.0, wanted, text


@pytest.mark.parametrize("name", ["tp", "without", "zero1"])
def test_an_engine_takes_a_plain_models_values(run: Runner, name: str) -> None:
    for loss, wanted, text in run(take_values, PLANS[name], world_size=PLANS[name].world_size):
        assert loss == pytest.approx(wanted, rel=1e-5)
        assert "the model given is another one: it has no layers.0.weight" in text or "failed on ranks" in text


class Blocks(torch.nn.Module):
    """Two feed-forward blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(*sizes) for sizes in [(6, 10), (10, 6), (6, 10), (10, 6)])

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss."""
        for first, second in zip(self.layers[::2], self.layers[1::2], strict=True):
            x = x + second(first(x).relu())
        return {"loss": x.square().mean()}


def from_meta(context: Context, plan: Plan) -> tuple[list[float], list[str]]:
    with torch.device("meta"):
        model = Blocks()
    batch = {"x": torch.randn(4, 6, generator=torch.Generator().manual_seed(0))}
    engine = merak.parallelize(model, plan, batch, optimizer=adamw)
    with_memory = [name for name, one in model.named_parameters() if not one.is_meta]
    return [engine.train_step(batch) for _ in range(3)], with_memory


def test_models_on_meta_start_alike_under_any_plan(run: Runner) -> None:
    ((expected, _),) = run(from_meta, Plan(microbatches=2), world_size=1)
    assert len(set(expected)) == 3
    for losses, with_memory in run(from_meta, PLANS["tp"], world_size=2):
        assert losses == pytest.approx(expected, rel=1e-5)
        assert with_memory == ["layers.1.bias", "layers.3.bias"], "parts are the engine's, the rest is the model's"


# Annotations ---------------------------------------------------------------------------------------------------------


def annotated(context: Context, spec: tuple[Any, ...], name: str = "layers.0.weight") -> tuple[str, Tensors]:
    batch = {"x": torch.ones(4, 6)}
    wishes = [annotate(name, spec)]
    try:
        engine = merak.parallelize(Blocks(), PLANS["tp"], batch, optimizer=adamw, annotations=wishes)
    except ValueError as error:
        return str(error), {}
    return engine.explain(), {name: one.detach() for name, one in engine.parameters.items()}


def test_annotations_come_first(run: Runner) -> None:
    for text, parameters in run(annotated, (None, "tp"), world_size=2):
        assert tuple(parameters["layers.0.weight"].shape) == (10, 3), "by columns, as annotated"
        assert tuple(parameters["layers.2.weight"].shape) == (5, 6), "by rows, Megatron's way"
        assert "1 replicas x 2 tensor-parallel x 1 pipeline ranks" in text
        assert "annotate('layers.0.weight', (None, 'tp'))" in text


def closed_and_evaluated(context: Context) -> tuple[float, float | None]:
    batch = {"x": torch.ones(4, 6)}
    wishes = [annotate("layers.1.weight", (None, Dim(closed=True)))]
    engine = merak.parallelize(Blocks(), PLANS["tp"], batch, optimizer=adamw, annotations=wishes)
    before = engine.eval_step(batch).loss
    return engine.train_step(batch), before


def test_other_graphs_follow_annotations_too(run: Runner) -> None:
    for trained, evaluated in run(closed_and_evaluated, world_size=2):
        assert trained == pytest.approx(evaluated, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "spec", "words"),
    [
        ("layers.0.weight", ("dp", None), "the mesh has no axis 'dp'"),
        ("layers.9.weight", ("tp", None), "no tensor is called so"),
        ("layers.0.weight", ("tp",), "has 2 dimensions, and the specification 1"),
    ],
)
def test_annotations_that_make_no_sense_are_refused(run: Runner, name: str, spec: tuple[Any, ...], words: str) -> None:
    for text, _ in run(annotated, spec, name, world_size=2):
        assert words in text


def warnings_of(context: Context) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        engine = engine_of(context, PLANS["tp"], "unet", loss_fn=zoo.ZOO["unet"].loss_fn)
        engine.train_step(zoo.batch_of("unet", ROWS, 0))
    return [str(one.message) for one in found]


def test_a_model_with_nothing_to_divide_is_said_to_have_none(run: Runner) -> None:
    first, second = run(warnings_of, world_size=2)
    assert any("nothing of this model is divided over tp" in text for text in first)
    assert not any("nothing of this model" in text for text in second), "said once"
