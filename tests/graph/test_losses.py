"""Losses of batches as sums over micro-batches: what is exact, and what is said not to be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from merak.graph import prepare
from tests.graph.running import Run, assert_same_gradients, plain_gradients
from tests.graph.test_capture import Net

Body = Callable[..., Any]
ROWS, LENGTH, CLASSES = 5, 6, 10


def batch() -> dict[str, torch.Tensor]:
    """Rows with different counts of targets: one has none."""
    random = torch.Generator().manual_seed(5)
    ids = torch.randint(0, CLASSES, (ROWS, LENGTH), generator=random)
    mask = torch.arange(LENGTH) < torch.tensor([6, 1, 4, 0, 3])[:, None]
    return {
        "ids": ids,
        "labels": ids.flip(1).masked_fill(~mask, -100),
        "mask": mask,
        "x": torch.randn(ROWS, 4, generator=random),
        "temperature": torch.tensor(0.7),
    }


def scores(model: Net, ids: torch.Tensor) -> torch.Tensor:
    return model.linear(model.embedding(ids)) @ model.embedding.weight.T


def model_of(loss: Body) -> Net:
    def forward(model: Net, **inputs: Any) -> Any:
        return {"loss": loss(model, scores(model, inputs["ids"]), **inputs)}

    return Net(forward)


EXACT: dict[str, Body] = {}
INEXACT: dict[str, Body] = {}


def exact(loss: Body) -> Body:
    EXACT[loss.__name__] = loss
    return loss


def inexact(loss: Body) -> Body:
    INEXACT[loss.__name__] = loss
    return loss


# Exact: as the whole batch at once -----------------------------------------------------------------------------------


@exact
def cross_entropy(model: Net, s: torch.Tensor, labels: torch.Tensor, **_: Any) -> Any:
    return F.cross_entropy(s.flatten(0, 1), labels.flatten())


@exact
def cross_entropy_after_shift(model: Net, s: torch.Tensor, labels: torch.Tensor, **_: Any) -> Any:
    shifted = F.pad(labels, (0, 1), value=-100)[:, 1:].contiguous()
    return F.cross_entropy(s.view(-1, CLASSES).float(), shifted.view(-1), reduction="mean")


@exact
def cross_entropy_by_dimension(model: Net, s: torch.Tensor, labels: torch.Tensor, **_: Any) -> Any:
    return F.cross_entropy(s.transpose(1, 2), labels)


@exact
def other_ignored_index(model: Net, s: torch.Tensor, ids: torch.Tensor, **_: Any) -> Any:
    return F.cross_entropy(s.flatten(0, 1), ids.flatten(), ignore_index=3)


@exact
def label_smoothing(model: Net, s: torch.Tensor, labels: torch.Tensor, **_: Any) -> Any:
    return F.cross_entropy(s.flatten(0, 1), labels.flatten(), label_smoothing=0.1)


@exact
def likelihood(model: Net, s: torch.Tensor, labels: torch.Tensor, **_: Any) -> Any:
    return F.nll_loss(s.flatten(0, 1).log_softmax(-1), labels.flatten())


@exact
def probabilities_of_classes(model: Net, s: torch.Tensor, ids: torch.Tensor, **_: Any) -> Any:
    return F.cross_entropy(s.flatten(0, 1), F.one_hot(ids.flatten(), CLASSES).float() * 0.9 + 0.01)


@exact
def probabilities_by_dimension(model: Net, s: torch.Tensor, ids: torch.Tensor, **_: Any) -> Any:
    return F.cross_entropy(s.transpose(1, 2), F.one_hot(ids, CLASSES).float().transpose(1, 2))


@exact
def squared_error(model: Net, s: torch.Tensor, x: torch.Tensor, **_: Any) -> Any:
    return F.mse_loss(model.linear(x), x.flip(1))


@exact
def smooth_errors(model: Net, s: torch.Tensor, x: torch.Tensor, **_: Any) -> Any:
    y = model.linear(x)
    return F.smooth_l1_loss(y, x) + 2 * F.huber_loss(y, x) - F.l1_loss(y, x) / 3


@exact
def binary_cross_entropy(model: Net, s: torch.Tensor, x: torch.Tensor, **_: Any) -> Any:
    y, targets = model.linear(x), (x > 0).float()
    return F.binary_cross_entropy_with_logits(y, targets, pos_weight=torch.ones(4) * 2) + F.binary_cross_entropy(
        y.sigmoid(), targets
    )


@exact
def question_answering(model: Net, s: torch.Tensor, ids: torch.Tensor, **_: Any) -> Any:
    """As Hugging Face's: a position outside is clamped to the length, which is what is ignored."""
    starts, ends = s[..., 0], s[..., 1]
    ignored = starts.size(1)
    first = F.cross_entropy(starts, ids[:, 0].clamp(0, ignored), ignore_index=ignored)
    last = F.cross_entropy(ends, ids[:, 1].clamp(0, ignored), ignore_index=ignored)
    return (first + last) / 2


@exact
def plain_mean(model: Net, s: torch.Tensor, **_: Any) -> Any:
    return s.square().mean()


@exact
def mean_over_all_dimensions(model: Net, s: torch.Tensor, **_: Any) -> Any:
    return s.square().mean((0, 1, 2)) * 0.5


@exact
def mean_of_losses(model: Net, s: torch.Tensor, ids: torch.Tensor, **_: Any) -> Any:
    return F.cross_entropy(s.flatten(0, 1), ids.flatten(), reduction="none").mean()


@exact
def masked_mean(model: Net, s: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, **_: Any) -> Any:
    losses = F.cross_entropy(s.flatten(0, 1), ids.flatten(), reduction="none")
    return (losses * mask.flatten()).sum() / mask.sum()


@exact
def guarded_masked_mean(model: Net, s: torch.Tensor, mask: torch.Tensor, **_: Any) -> Any:
    return (s.square().sum(-1) * mask).sum() / mask.sum().clamp(min=1)


@exact
def masked_mean_with_epsilon(model: Net, s: torch.Tensor, mask: torch.Tensor, **_: Any) -> Any:
    return -(s.sin().sum(-1) * mask).sum() / (mask.float().sum() + 1e-8)


def masked_sum(s: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (s.square().sum(-1) * mask).sum()


@exact
def count_and_more(model: Net, s: torch.Tensor, mask: torch.Tensor, **_: Any) -> Any:
    return masked_sum(s, mask) / (mask.sum() + 5)


@exact
def count_clamped_far_above(model: Net, s: torch.Tensor, mask: torch.Tensor, **_: Any) -> Any:
    return masked_sum(s, mask) / mask.float().sum().clamp(min=50)


@exact
def count_clamped_from_above(model: Net, s: torch.Tensor, mask: torch.Tensor, **_: Any) -> Any:
    return masked_sum(s, mask) / mask.sum().clamp(max=3)


@exact
def largest_of_count_and_one(model: Net, s: torch.Tensor, mask: torch.Tensor, **_: Any) -> Any:
    return masked_sum(s, mask) / torch.maximum(mask.sum(), torch.tensor(20))


@exact
def one_where_the_count_is_none(model: Net, s: torch.Tensor, mask: torch.Tensor, **_: Any) -> Any:
    count = mask.sum()
    return masked_sum(s, mask) / torch.where(count > 20, count, 2 * count.sqrt())


@exact
def root_of_the_count(model: Net, s: torch.Tensor, mask: torch.Tensor, **_: Any) -> Any:
    return masked_sum(s, mask) / ((mask.sum() + mask[:, 0].sum()).float().sqrt() - 0.5)


@exact
def clamped_rows(model: Net, s: torch.Tensor, mask: torch.Tensor, **_: Any) -> Any:
    return s.square().sum() / mask.sum(1).clamp(min=2).sum().square()


@exact
def sum_of_what_is_divided(model: Net, s: torch.Tensor, mask: torch.Tensor, **_: Any) -> Any:
    return (s.square().sum(-1) * mask / mask.sum().clamp(min=1)).sum()


@exact
def rows_with_counts_of_their_own(model: Net, s: torch.Tensor, mask: torch.Tensor, **_: Any) -> Any:
    return ((s.square().sum(-1) * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


@exact
def sum_over_count_of_labels(model: Net, s: torch.Tensor, labels: torch.Tensor, **_: Any) -> Any:
    return F.cross_entropy(s.flatten(0, 1), labels.flatten(), reduction="sum") / (labels != -100).sum()


@exact
def sum_over_rows(model: Net, s: torch.Tensor, x: torch.Tensor, **_: Any) -> Any:
    return model.linear(x).square().sum() / x.size(0)


@exact
def divergence(model: Net, s: torch.Tensor, x: torch.Tensor, **_: Any) -> Any:
    return F.kl_div(model.linear(x).log_softmax(1), x.softmax(1), reduction="batchmean")


@exact
def plain_sum(model: Net, s: torch.Tensor, x: torch.Tensor, **_: Any) -> Any:
    return F.mse_loss(model.linear(x), x, reduction="sum") * 0.1


@exact
def python_sum(model: Net, s: torch.Tensor, labels: torch.Tensor, x: torch.Tensor, **_: Any) -> Any:
    return sum([F.cross_entropy(s.flatten(0, 1), labels.flatten()), F.mse_loss(model.linear(x), x), 0.5])


@exact
def added_in_place(model: Net, s: torch.Tensor, labels: torch.Tensor, x: torch.Tensor, **_: Any) -> Any:
    loss = F.cross_entropy(s.flatten(0, 1), labels.flatten())
    loss += 0.1 * F.mse_loss(model.linear(x), x)
    loss *= 2
    loss -= model.linear(x).sum() * 0.01
    return loss


@exact
def sum_that_is_written_to(model: Net, s: torch.Tensor, x: torch.Tensor, **_: Any) -> Any:
    loss = model.linear(x).sum()
    loss += F.mse_loss(model.linear(x), x)
    return loss


@exact
def with_temperature(model: Net, s: torch.Tensor, labels: torch.Tensor, temperature: torch.Tensor, **_: Any) -> Any:
    return F.cross_entropy(s.flatten(0, 1), labels.flatten()) * temperature / temperature.exp()


@exact
def with_weight_penalty(model: Net, s: torch.Tensor, labels: torch.Tensor, **_: Any) -> Any:
    penalty = model.linear.weight.square().sum() + model.embedding.weight.norm()
    return F.cross_entropy(s.flatten(0, 1), labels.flatten()) + 0.1 * penalty


@pytest.mark.parametrize("name", EXACT)
def test_micro_batches_add_up_to_the_batch(name: str) -> None:
    model, whole = model_of(EXACT[name]), batch()
    loss = model(**whole)["loss"]
    expected = plain_gradients(model, loss)
    prepared = prepare(model, {key: value[:3] if value.dim() else value for key, value in whole.items()})
    assert prepared.terms.inexact == []
    for microbatches in (1, 2, 5):
        made = Run(model, prepared, whole, microbatches=microbatches)
        assert made.loss == pytest.approx(float(loss.detach()), rel=1e-5), microbatches
        assert_same_gradients(made.gradients, expected)


# Inexact: averaged, and named ----------------------------------------------------------------------------------------


@inexact
def balance(model: Net, s: torch.Tensor, **_: Any) -> Any:
    """As the auxiliary loss of a mixture of experts: a product of means."""
    chosen = F.one_hot(s.argmax(-1), CLASSES).float().mean((0, 1))
    return (chosen * s.softmax(-1).mean((0, 1))).sum() * CLASSES


@inexact
def contrast(model: Net, s: torch.Tensor, x: torch.Tensor, **_: Any) -> Any:
    """Each row against all others of the batch."""
    y = model.linear(x)
    return F.cross_entropy(y @ x.T, torch.arange(x.shape[0]))


@inexact
def class_weights(model: Net, s: torch.Tensor, labels: torch.Tensor, **_: Any) -> Any:
    return F.cross_entropy(s.flatten(0, 1), labels.flatten(), weight=torch.arange(1.0, CLASSES + 1))


@inexact
def over_a_mean(model: Net, s: torch.Tensor, mask: torch.Tensor, **_: Any) -> Any:
    return s.square().sum() / (1 + mask.float().mean()).square()


@inexact
def clamped_in_place(model: Net, s: torch.Tensor, mask: torch.Tensor, **_: Any) -> Any:
    return s.square().sum() / mask.sum().clamp_(min=20)


@inexact
def weights_by_mean(model: Net, s: torch.Tensor, x: torch.Tensor, **_: Any) -> Any:
    return (model.linear(x).square() * (x / x.square().sum())).sum()


@inexact
def mean_of_what_is_divided(model: Net, s: torch.Tensor, mask: torch.Tensor, **_: Any) -> Any:
    return (s.square().sum(-1) * mask / mask.sum()).mean()


@inexact
def over_a_sum_of_the_models_own(model: Net, s: torch.Tensor, x: torch.Tensor, **_: Any) -> Any:
    return s.square().sum() / model.linear(x).square().sum()


@inexact
def a_root(model: Net, s: torch.Tensor, x: torch.Tensor, **_: Any) -> Any:
    return F.mse_loss(model.linear(x), x).sqrt()


@pytest.mark.parametrize("name", INEXACT)
def test_what_does_not_add_up_is_averaged_by_rows_and_named(name: str) -> None:
    model, whole = model_of(INEXACT[name]), batch()
    del whole["labels"]
    whole["labels"] = whole["ids"]
    prepared = prepare(model, whole)
    assert len(prepared.terms.inexact) == 1
    made = Run(model, prepared, whole, microbatches=2)
    halves = [{k: v[part] if v.dim() else v for k, v in whole.items()} for part in (slice(0, 3), slice(3, 5))]
    expected = sum(model(**half)["loss"] * len(half["x"]) / ROWS for half in halves)
    assert made.loss == pytest.approx(float(expected.detach()), rel=1e-5)
    assert_same_gradients(made.gradients, plain_gradients(model, expected))


def test_only_the_part_that_does_not_add_up_is_averaged() -> None:
    def both(model: Net, s: torch.Tensor, labels: torch.Tensor, **_: Any) -> Any:
        loss = F.cross_entropy(s.flatten(0, 1), labels.flatten())
        loss += 0.1 * balance(model, s)
        return loss

    model, whole = model_of(both), batch()
    prepared = prepare(model, whole)
    assert len(prepared.terms.inexact) == 1
    assert "__file__" not in prepared.terms.inexact[0]
    made = Run(model, prepared, whole, microbatches=2)
    exactly = F.cross_entropy(scores(model, whole["ids"]).flatten(0, 1), whole["labels"].flatten())
    halves = [whole["ids"][:3], whole["ids"][3:]]
    averaged = sum(0.1 * balance(model, scores(model, half)) * len(half) / ROWS for half in halves)
    assert made.loss == pytest.approx(float((exactly + averaged).detach()), rel=1e-5)
    assert_same_gradients(made.gradients, plain_gradients(model, exactly + averaged))


def test_mixtral_with_its_auxiliary_loss() -> None:
    from tests.engine import zoo

    model = zoo.make("mixtral")
    model.config.output_router_logits = True
    model.config.router_aux_loss_coef = 0.3
    model.model.config.output_router_logits = True
    whole = zoo.batch_of("mixtral", 4, 0)
    prepared = prepare(model, whole)
    assert len(prepared.terms.inexact) == 1
    assert prepared.terms.counts[0] is not None
    made = Run(model, prepared, whole)
    output = model(**whole)
    assert output.aux_loss > 0
    assert made.loss == pytest.approx(float(output.loss.detach()), rel=1e-5)
    assert_same_gradients(made.gradients, plain_gradients(model, output.loss))


# Ends ----------------------------------------------------------------------------------------------------------------


def test_a_micro_batch_without_targets_gives_nothing() -> None:
    model, whole = model_of(cross_entropy), batch()
    made = Run(model, prepare(model, whole), whole, microbatches=5)
    assert made.losses[3] == 0
    assert all(loss > 0 for index, loss in enumerate(made.losses) if index != 3)


def nothing_counts() -> dict[str, torch.Tensor]:
    whole = batch()
    return whole | {"labels": torch.full_like(whole["labels"], -100), "mask": torch.zeros_like(whole["mask"])}


def mean_over_mask(model: Net, s: torch.Tensor, mask: torch.Tensor, **_: Any) -> Any:
    return masked_sum(s, mask) / mask.sum()


@pytest.mark.parametrize(
    "loss", [cross_entropy, likelihood, guarded_masked_mean, masked_mean_with_epsilon, count_and_more, mean_over_mask]
)
def test_a_batch_in_which_nothing_counts_is_as_in_one_process(loss: Body) -> None:
    """Not a number, with gradients of zeros, for PyTorch's means; zero where a count is guarded."""
    model, whole = model_of(loss), nothing_counts()
    theirs = model(**whole)["loss"]
    made = Run(model, prepare(model, batch()), whole, microbatches=2)
    assert made.loss == pytest.approx(float(theirs.detach()), nan_ok=True)
    expected = plain_gradients(model, theirs)
    for name, gradient in expected.items():
        torch.testing.assert_close(made.gradients[name], gradient, equal_nan=True)


def test_nothing_is_computed_twice() -> None:
    model, whole = model_of(added_in_place), batch()
    graph = prepare(model, whole).captured.graph
    names = [str(node.target) for node in graph.nodes]
    assert sum("cross_entropy" in name for name in names) == 1
    assert not [name for name in names if "add_." in name or "mul_." in name]


def test_a_model_without_a_loss_has_no_terms() -> None:
    prepared = prepare(Net(lambda model, x: model.linear(x)), {"x": torch.randn(3, 4)}, training=False)
    assert prepared.terms.counts == prepared.terms.inexact == []


def test_double_precision_is_kept() -> None:
    def loss(model: nn.Module, x: torch.Tensor) -> Any:
        return {"loss": F.mse_loss(model.linear(x), x)}

    model = Net(loss).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    made = Run(model, prepare(model, {"x": x}), {"x": x}, microbatches=2)
    expected = F.mse_loss(model.linear(x), x)
    assert made.loss == pytest.approx(float(expected.detach()), rel=1e-14)
    assert_same_gradients(made.gradients, plain_gradients(model, expected), 1e-14)


def test_a_model_that_fixes_its_batch() -> None:
    """It has no size that grows with the batch, so that nobody can tell a sum over rows; sums are averaged."""

    def loss(model: nn.Module, x: torch.Tensor) -> Any:
        y = model.linear(x).view(2, 4)
        return {"loss": F.mse_loss(y, x) + y.sum() / x.shape[0] + model.linear.weight.square().sum()}

    model, x = Net(loss), torch.randn(6, 4)
    prepared = prepare(model, {"x": x[:2]})
    assert [name.split()[0] for name in prepared.terms.inexact] == ["sum_1"]
    made = Run(model, prepared, {"x": x}, microbatches=3)
    expected = F.mse_loss(model.linear(x), x) + model.linear(x).sum() / 6 + model.linear.weight.square().sum()
    assert made.loss == pytest.approx(float(expected.detach()), rel=1e-5)
    assert_same_gradients(made.gradients, plain_gradients(model, expected))
