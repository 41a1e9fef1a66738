"""Models captured as graphs, which give what the models give."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from merak.graph import CaptureError, capture
from merak.graph.capture import canonical_names
from merak.graph.trees import rebuild
from merak.pipeline.microbatches import bind
from tests.graph.running import assert_same_gradients, plain_gradients, run


class Net(nn.Module):
    """A linear layer, and whatever a test does with it."""

    def __init__(self, forward: Callable[..., Any], width: int = 4) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.linear = nn.Linear(width, width)
        self.embedding = nn.Embedding(10, width)
        self.body = forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.body(self, *args, **kwargs)


def assert_as_plain(model: nn.Module, batch: dict[str, Any], tolerance: float = 1e-5, **how: Any) -> None:
    """Outputs, loss and gradients of the captured graph are those of the model."""
    made = run(model, batch, **how)
    output = model(**batch)
    assert made.outputs[0]["loss"] == pytest.approx(float(output["loss"].detach()), rel=1e-6)
    for path, tensor in made.outputs[0].items():
        if path != "loss" and path in output:
            torch.testing.assert_close(tensor, output[path].detach())
    assert_same_gradients(made.gradients, plain_gradients(model, output["loss"]), tolerance)


def squared(model: Net, x: torch.Tensor) -> dict[str, torch.Tensor]:
    y = model.linear(x)
    return {"loss": y.square().mean(), "y": y}


# Inputs --------------------------------------------------------------------------------------------------------------


def test_other_batches_than_the_example() -> None:
    model = Net(squared)
    for rows in (1, 2, 5):
        for example in (1, 2, 5):
            assert_as_plain(model, {"x": torch.randn(rows, 4)}, example={"x": torch.randn(example, 4)})


def test_other_lengths_than_the_example() -> None:
    def forward(model: Net, ids: torch.Tensor) -> Any:
        y = model.embedding(ids).cumsum(1)
        return {"loss": y.square().mean(), "y": y, "positions": torch.arange(ids.shape[1])}

    for example in ((2, 7), (1, 5), (3, 2)):
        for shape in ((2, 7), (4, 3), (1, 9), (1, 1)):
            ids = torch.randint(0, 10, shape)
            assert_as_plain(Net(forward), {"ids": ids}, example={"ids": torch.zeros(example, dtype=torch.long)})


class Nested(NamedTuple):
    x: torch.Tensor
    how: str


def test_nested_inputs_and_some_that_are_no_tensors() -> None:
    def forward(model: Net, nested: Nested, more: Any, power: int, flag: bool | None = None) -> Any:
        y = model.linear(nested.x + more["list"][1])
        assert nested.how == "fast"
        assert flag is None
        return {"loss": y.pow(power).mean()}

    x = torch.randn(3, 4)
    batch = {"nested": Nested(x, "fast"), "more": {"list": [None, torch.ones(3, 4)]}, "power": 2, "flag": None}
    assert_as_plain(Net(forward), batch)
    captured = capture(Net(forward), batch)
    assert list(captured.inputs) == ["nested.x", "more.list.1"]
    assert captured.fixed == {"nested.how": "fast", "more.list.0": None, "power": 2, "flag": None}


def test_equal_tensors_of_an_example_stay_two_inputs() -> None:
    def forward(model: Net, ids: torch.Tensor, labels: torch.Tensor) -> Any:
        scores = model.embedding(ids) @ model.embedding.weight.T
        return {"loss": F.cross_entropy(scores.flatten(0, 1), labels.flatten())}

    ids = torch.randint(0, 10, (3, 5))
    example = {"ids": ids, "labels": ids}
    assert_as_plain(Net(forward), {"ids": ids, "labels": torch.randint(0, 10, (3, 5))}, example=example)


def test_complex_inputs_and_values() -> None:
    def forward(model: Net, x: torch.Tensor) -> Any:
        y = torch.complex(model.linear(x.real), model.linear(x.imag)) * x
        return {"loss": y.abs().square().mean(), "y": y}

    assert_as_plain(Net(forward), {"x": torch.randn(3, 4, dtype=torch.complex64)})


@pytest.mark.parametrize("starred", ["args", "kwargs"])
def test_forward_with_stars(starred: str) -> None:
    def with_args(model: Net, x: torch.Tensor, *args: Any) -> Any:
        assert not args
        return squared(model, x)

    def with_kwargs(model: Net, **kwargs: Any) -> Any:
        return squared(model, kwargs["x"] + kwargs["shift"])

    x = {"x": torch.randn(3, 4)}
    batch = x if starred == "args" else x | {"shift": torch.ones(3, 4)}
    assert_as_plain(Net(with_args if starred == "args" else with_kwargs), batch)


def test_a_batch_is_checked_against_the_example() -> None:
    def forward(model: Net, x: torch.Tensor, ids: torch.Tensor, mode: str) -> Any:
        return {"loss": (model.linear(x) + model.embedding(ids)).mean()}

    good = {"x": torch.randn(3, 4), "ids": torch.zeros(3, dtype=torch.long), "mode": "a"}
    captured = capture(Net(forward), good)
    bind(captured, good, 0)
    for change, text in [
        ({"mode": "b"}, "mode: is 'b' and was 'a'"),
        ({"x": torch.randn(3, 5)}, "x: dimension 1 is 5 and must be 4"),
        ({"x": torch.randn(3, 4).double()}, "x: is torch.float64 and must be torch.float32"),
        ({"x": torch.randn(3, 4, 1)}, "x: has 3 dimensions and must have 2"),
        ({"x": "words"}, "x: is str and must be a tensor"),
        ({"ids": torch.zeros(2, dtype=torch.long)}, "ids: dimension 0 is 2 where another input has 3"),
        ({"extra": 1}, "extra: was not in the example"),
    ]:
        with pytest.raises(ValueError, match="does not fit the example") as caught:
            bind(captured, good | change, 0)
        assert text in str(caught.value)
    with pytest.raises(ValueError, match="ids: is missing"):
        bind(captured, {key: good[key] for key in ("x", "mode")}, 0)


def test_sizes_that_would_take_another_way_are_refused() -> None:
    """A graph has one branch of an `if` on sizes; running it for sizes of the other would be silently wrong."""

    def forward(model: Net, ids: torch.Tensor, more: torch.Tensor) -> Any:
        y = model.embedding(ids)
        if ids.shape[1] > 5:
            y = y * 2
        if more.shape[1] == ids.shape[1] + 1:
            y = y + model.embedding(more[:, 1:])
        return {"loss": y.square().mean()}

    def batch(length: int, more: int) -> dict[str, torch.Tensor]:
        return {"ids": torch.zeros(2, length, dtype=torch.long), "more": torch.zeros(2, more, dtype=torch.long)}

    captured = capture(Net(forward), batch(8, 9))
    with pytest.raises(ValueError, match="does not fit"):
        bind(captured, {"ids": batch(8, 9)["ids"], "more": batch(8, 9)["more"][:1]}, 0)
    assert bind(captured, batch(6, 7), 0).sizes
    with pytest.raises(ValueError, match=r"took its way where ids.shape\[1\] > 5"):
        bind(captured, batch(5, 6), 0)
    with pytest.raises(ValueError, match=r"more: dimension 1 is 8 and must be 9, ids.shape\[1\] \+ 1"):
        bind(captured, batch(8, 8), 0)
    assert_as_plain(Net(forward), batch(5, 6), example=batch(4, 5))


# Parameters ----------------------------------------------------------------------------------------------------------


def test_tied_parameters_have_one_placeholder_under_their_first_name() -> None:
    def forward(model: Net, ids: torch.Tensor) -> Any:
        scores = model.head(model.linear(model.embedding(ids)))
        return {"loss": scores.square().mean(), "scores": scores}

    model = Net(forward)
    model.head = nn.Linear(4, 10, bias=False)
    model.head.weight = model.embedding.weight
    names = canonical_names(model)
    assert names["head.weight"] == names["embedding.weight"] == "embedding.weight"
    batch = {"ids": torch.randint(0, 10, (3, 5))}
    assert_as_plain(model, batch)
    made = run(model, batch)
    placeholders = [source for source in made._prepared.captured.sources.values() if source.kind == "parameter"]
    assert len(placeholders) == len(set(placeholders))
    assert [source.key for source in placeholders].count("embedding.weight") == 1


def test_neither_parameters_nor_modes_are_changed() -> None:
    model = Net(squared)
    model.dropout = nn.Dropout(0.1)
    model.train()
    model.linear.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for training in (True, False):
        capture(model, {"x": torch.randn(2, 4)}, training=training)
        assert (model.training, model.linear.training, model.dropout.training) == (True, False, True)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_was_frozen_in_evaluation_mode_is_captured_so() -> None:
    """Users put parts of a model in evaluation mode, such as the BatchNorms of a frozen backbone."""

    def forward(model: Net, x: torch.Tensor) -> Any:
        return {"loss": model.norm(model.linear(x)).square().sum()}

    model = Net(forward)
    model.norm = nn.BatchNorm1d(4)
    model.norm.running_var.fill_(3.0)
    model.train()
    model.norm.eval()
    assert_as_plain(model, {"x": torch.randn(5, 4)})


def test_buffers_constants_and_plain_tensors_of_a_model() -> None:
    def forward(model: Net, x: torch.Tensor) -> Any:
        y = model.linear(x) * model.scale + model.shift + torch.tensor([1.0, 2.0, 3.0, 4.0])
        return {"loss": y.square().mean(), "y": y}

    model = Net(forward)
    model.register_buffer("scale", torch.randn(4), persistent=False)
    model.shift = torch.randn(4)
    assert_as_plain(model, {"x": torch.randn(3, 4)})


# Outputs -------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Answer:
    loss: torch.Tensor | None
    scores: Any
    note: str = "fine"


def test_output_classes_are_built_again() -> None:
    def forward(model: Net, x: torch.Tensor) -> Any:
        y = model.linear(x)
        return Answer(y.square().mean(), {"first": [y[:, 0], y]})

    captured = capture(Net(forward), {"x": torch.randn(3, 4)})
    assert captured.outputs == ["loss", "scores.first.0", "scores.first.1"]
    assert captured.loss == 0
    tensors = [torch.tensor(float(number)) for number in range(3)]
    output = rebuild(captured.template, captured.all_leaves(tensors))
    assert output == Answer(tensors[0], {"first": tensors[1:]})


def test_an_output_may_be_an_input_or_be_there_twice() -> None:
    def forward(model: Net, x: torch.Tensor) -> Any:
        y = model.linear(x)
        return {"loss": y.square().mean(), "x": x, "y": y, "again": y}

    assert_as_plain(Net(forward), {"x": torch.randn(3, 4)})


@pytest.mark.parametrize(
    "output",
    [
        lambda loss, y: (loss, y),
        lambda loss, y: (loss.reshape(1), y),
        lambda loss, y: {"loss": loss, "y": y},
        lambda loss, y: {"y": y, "loss": loss[None]},
        lambda loss, y: Answer(loss, y),
    ],
)
def test_losses_are_found(output: Callable[..., Any]) -> None:
    model = Net(lambda model, x: output(model.linear(x).square().mean(), model.linear(x)))
    made = run(model, x := {"x": torch.randn(3, 4)})
    loss = model.linear(x["x"]).square().mean()
    assert made.loss == pytest.approx(float(loss.detach()), rel=1e-6)
    assert_same_gradients(made.gradients, plain_gradients(model, loss))


def test_without_a_loss_there_is_none() -> None:
    captured = capture(Net(lambda model, x: (model.linear(x), model.linear(x).mean())), {"x": torch.randn(3, 4)})
    assert captured.loss is None


def test_a_loss_of_the_users_own() -> None:
    def loss_fn(output: Any, batch: Any) -> torch.Tensor:
        return F.l1_loss(output, batch["target"])

    model = Net(lambda model, x, target: model.linear(x))
    batch = {"x": torch.randn(3, 4), "target": torch.randn(3, 4)}
    made = run(model, batch, loss_fn=loss_fn)
    assert_same_gradients(made.gradients, plain_gradients(model, loss_fn(model(**batch), batch)))
    assert set(made.outputs[0]) == {"", "loss"}


def test_caches_are_switched_off_and_on_again() -> None:
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2)
    )
    assert model.config.use_cache
    captured = capture(model, {"input_ids": torch.ones(2, 4, dtype=torch.long)}, training=False)
    assert captured.outputs == ["logits"]
    assert model.config.use_cache


def test_what_is_no_tensor_in_an_output_stays_or_is_left_out() -> None:
    def forward(model: Net, x: torch.Tensor) -> Any:
        return {"y": model.linear(x), "size": 3, "name": "n", "cache": object()}

    captured = capture(Net(forward), {"x": torch.randn(3, 4)})
    output = rebuild(captured.template, captured.all_leaves([torch.ones(1)]))
    assert output == {"y": torch.ones(1), "size": 3, "name": "n", "cache": None}


def test_models_that_recompute_by_themselves() -> None:
    """`gradient_checkpointing_enable` is for one process; here the plan says what is recomputed."""
    from torch.utils.checkpoint import checkpoint

    def forward(model: Net, x: torch.Tensor) -> Any:
        return {"loss": checkpoint(model.linear, x, use_reentrant=False).square().mean()}

    assert_as_plain(Net(forward), {"x": torch.randn(3, 4)})


# What cannot be captured ---------------------------------------------------------------------------------------------


def decides(model: Net, x: torch.Tensor) -> Any:
    if x.sum() > 0:
        x = -x
    return {"loss": model.linear(x).mean()}


def counts(model: Net, x: torch.Tensor) -> Any:
    return {"loss": model.linear(x).mean() * int((x > 0).sum().item())}


def selects(model: Net, x: torch.Tensor) -> Any:
    return {"loss": model.linear(x)[x > 0].mean()}


def finds(model: Net, x: torch.Tensor) -> Any:
    rows = (x[:, 0] > 0).nonzero().squeeze(1)
    return {"loss": model.linear(x)[rows].sum()}


def own_count(model: Net, x: torch.Tensor) -> Any:
    chosen = torch.unique(model.linear(x))
    return {"loss": chosen.sum()}


@pytest.mark.parametrize("body", [decides, counts, selects, finds, own_count])
def test_what_depends_on_values_is_refused_with_its_place(body: Callable[..., Any]) -> None:
    with pytest.raises(CaptureError) as caught:
        capture(Net(body), {"x": torch.randn(3, 4)})
    text = str(caught.value)
    assert "values in a tensor" in text, "the reason"
    assert "Net" in text
    assert f"{__file__}:" in text, "the place"
    # torch keeps only the lines in functions named `forward` of an operation that it has captured.
    assert f"in {body.__name__}" in text or "in forward: return self.body" in text
    assert "mask" in text, "what to do"


def test_a_batch_that_does_not_fit_forward() -> None:
    def forward(model: Net, x: torch.Tensor) -> Any:
        return squared(model, x)

    with pytest.raises(CaptureError, match=r"(?s)unexpected keyword.*the batch does not fit the model's `forward`"):
        capture(Net(forward), {"x": torch.randn(3, 4), "y": torch.randn(3)})


def test_errors_of_the_model_itself_are_shown_with_their_place() -> None:
    def forward(model: Net, x: torch.Tensor) -> Any:
        raise KeyError("no such thing as tea")

    with pytest.raises(CaptureError, match="tea") as caught:
        capture(Net(forward), {"x": torch.randn(3, 4)})
    assert f"{__file__}:" in str(caught.value)
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_model_gets_what_its_forward_names_beside_a_loss_fn() -> None:
    batch = {"x": torch.ones(3, 4), "target": torch.zeros(3, 2)}
    captured = capture(nn.Linear(4, 2), {"input": batch["x"], "target": batch["target"]}, loss_fn=_gap)
    assert captured.loss is not None
    assert set(captured.inputs) == {"input", "target"}


def _gap(output: torch.Tensor, batch: Mapping[str, Any]) -> torch.Tensor:
    return (output - batch["target"]).square().mean()
