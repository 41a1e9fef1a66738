"""Graphs cut into stages: the same numbers wherever the cuts are, and nothing travels that need not."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from merak.graph import CaptureError, Prepared, prepare
from tests.graph.running import Run, assert_same_gradients
from tests.graph.test_capture import Net

VOCABULARY = 12


class Mixed(nn.Module):
    """A bit of everything: tied weights, a skip over the whole model, masks, lists, writes, statistics, dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.mix = nn.ModuleList(nn.Linear(8, 16) for _ in range(3))
        self.norm = nn.BatchNorm1d(8)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 8))

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> Any:
        """Loss, scores and what was chosen."""
        h = first = self.embedding(ids) * self.scale
        mask = (ids != 0).float()[..., None]
        positions = torch.arange(ids.shape[1])
        for mix in self.mix:
            gate, value = mix(h).chunk(2, dim=-1)
            value = value * mask
            value[:, 0] += 1
            h = h + F.dropout(gate.sigmoid() * value, 0.2, self.training) + positions[:, None] * 0.01
        h = self.norm(h.transpose(1, 2)).transpose(1, 2)
        h = F.relu(self.frozen(h), inplace=True) + first
        scores = h @ self.embedding.weight.T
        loss = F.cross_entropy(scores.view(-1, VOCABULARY), labels.view(-1))
        return {"loss": loss, "scores": scores, "chosen": scores.argmax(-1), "mask": mask}


def batch(rows: int = 5) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(rows)
    ids = torch.randint(0, VOCABULARY, (rows, 6), generator=random)
    labels = ids.flip(0).masked_fill(torch.rand(rows, 6, generator=random) < 0.3, -100)
    return {"ids": ids, "labels": labels}


@functools.cache
def prepared() -> tuple[Mixed, Prepared, Run]:
    model = Mixed()
    made = prepare(model, batch(2))
    return model, made, Run(model, made, batch(), microbatches=3)


def allowed() -> list[int]:
    return [position for position, may in enumerate(prepared()[1].cuttable.may_cut) if may]


def assert_same(made: Run, whole: Run) -> None:
    assert made.losses == pytest.approx(whole.losses, rel=1e-6)
    assert_same_gradients(made.gradients, whole.gradients)
    for name, buffer in whole.buffers.items():
        torch.testing.assert_close(made.buffers[name], buffer, msg=name)
    for mine, theirs in zip(made.outputs, whole.outputs, strict=True):
        assert mine.keys() == theirs.keys()
        for path, tensor in theirs.items():
            torch.testing.assert_close(mine[path], tensor, msg=path)


# Same numbers --------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_any_allowed_cut_gives_the_same_numbers(data: st.DataObject) -> None:
    model, made, whole = prepared()
    boundaries = sorted(data.draw(st.sets(st.sampled_from(allowed()), max_size=5)))
    length = len(made.cuttable.trunk)
    prefixes = st.lists(st.integers(0, length), min_size=len(boundaries) + 1, max_size=len(boundaries) + 1)
    recomputed = data.draw(st.none() | prefixes)
    assert_same(Run(model, made, batch(), microbatches=3, boundaries=boundaries, recomputed=recomputed), whole)


def test_every_operation_a_stage() -> None:
    model, made, whole = prepared()
    boundaries = allowed()
    assert len(boundaries) > 20
    for recomputed in (None, [1] * (len(boundaries) + 1)):
        assert_same(Run(model, made, batch(), microbatches=3, boundaries=boundaries, recomputed=recomputed), whole)


def test_the_whole_is_the_model() -> None:
    model = Mixed().eval()
    made = prepare(model, batch(2), training=False)
    middle = [position for position, may in enumerate(made.cuttable.may_cut) if may][20]
    run = Run(model, made, batch(), boundaries=[middle])
    expected = model(**batch())
    for path in ("scores", "chosen", "mask"):
        torch.testing.assert_close(run.outputs[0][path], expected[path].detach())
    assert run.loss == pytest.approx(float(expected["loss"].detach()), rel=1e-6)


def test_recomputation_counts_no_micro_batch_twice() -> None:
    model, made, _ = prepared()
    run = Run(model, made, batch(), microbatches=3, recomputed=[10**6])
    assert run.buffers["norm.num_batches_tracked"] == 3


# Forbidden cuts ------------------------------------------------------------------------------------------------------


def test_every_forbidden_cut_raises_and_says_why() -> None:
    _, made, _ = prepared()
    forbidden = [position for position, may in enumerate(made.cuttable.may_cut) if not may]
    assert len(forbidden) > 5
    for position in forbidden:
        with pytest.raises(CaptureError, match=f"no boundary between stages may lie before operation {position}"):
            made.cuttable.cut([position])
    name = made.cuttable.trunk[forbidden[1]].name
    with pytest.raises(CaptureError, match=rf"\({name}\): .*written to later, would cross it"):
        made.cuttable.cut([forbidden[1]])


def test_boundaries_lie_within_and_rise() -> None:
    _, made, _ = prepared()
    length = len(made.cuttable.trunk)
    for boundary in (-1, 0, length, length + 5):
        with pytest.raises(CaptureError, match="no boundary"):
            made.cuttable.cut([boundary])
    first, second = allowed()[:2]
    for boundaries in ([second, first], [first, first]):
        with pytest.raises(CaptureError, match="must rise"):
            made.cuttable.cut(boundaries)


def test_stages_may_be_empty_where_that_is_asked_for() -> None:
    _, made, _ = prepared()
    length, (middle, *_) = len(made.cuttable.trunk), allowed()
    stages = made.cuttable.cut([0, middle, middle, length], may_be_empty=True)
    plain = made.cuttable.cut([middle])
    assert [len(stage.parameters) for stage in stages] == [0, len(plain[0].parameters), 0, len(plain[1].parameters), 0]
    for stage in stages[::2]:
        assert not stage.received
        assert not stage.sent
    assert set(stages[4].outputs.values()) == set(stages[4].segments[0].results) != set()  # of the batch alone
    with pytest.raises(CaptureError, match="must rise"):
        made.cuttable.cut([middle, 0], may_be_empty=True)


def test_lists_writes_and_statistics_are_not_torn() -> None:
    _, made, _ = prepared()
    trunk, may = made.cuttable.trunk, made.cuttable.may_cut
    for index, node in enumerate(trunk):
        if node.name.startswith(("getitem", "copy_", "relu_")):
            assert not may[index], node
        if node.name.startswith("embedding"):
            assert not any(may[: index + 1])


# What travels --------------------------------------------------------------------------------------------------------


class Skips(nn.Module):
    """Five layers; the first one's result is needed by the third and the fifth, and nowhere between."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(5))

    def forward(self, x: torch.Tensor) -> Any:
        """The loss and the first layer's result."""
        position = torch.arange(x.shape[0])[:, None] + x.shape[0]
        first = self.layers[0](x)
        h = self.layers[1](first) + position
        h = self.layers[2](h) * first
        h = self.layers[3](h) * position
        h = self.layers[4](h) + first.sum(0)
        return {"loss": (h / x.shape[0]).square().mean(), "first": first}


def cut_before(model: nn.Module, made: Prepared, *names: str) -> list[int]:
    by_name = {node.name: index for index, node in enumerate(made.cuttable.trunk)}
    return [by_name[name] for name in names]


def test_values_travel_straight_to_the_stages_that_need_them() -> None:
    model = Skips()
    made = prepare(model, {"x": torch.randn(3, 4)})
    boundaries = cut_before(model, made, "linear_1", "linear_2", "linear_3", "linear_4")
    stages = made.cuttable.cut(boundaries)
    sent = {value.name: (value.producer, value.consumers) for stage in stages for value in stage.sent}
    assert sent == {
        "linear": (0, (1, 2, 4)),
        "add_1": (1, (2,)),
        "mul": (2, (3,)),
        "mul_1": (3, (4,)),
    }
    for stage in stages:
        assert stage.received == tuple(
            value for other in stages for value in other.sent if stage.index in value.consumers
        )
        assert all(value.has_gradient for value in stage.sent)
        assert stage.parameters == (f"layers.{stage.index}.weight", f"layers.{stage.index}.bias")
    assert [list(stage.outputs) for stage in stages] == [[1], [], [], [], [0]]


def test_sizes_and_values_of_the_batch_do_not_travel() -> None:
    made = prepare(Skips(), {"x": torch.randn(3, 4)})
    for boundary in (position for position, may in enumerate(made.cuttable.may_cut) if may):
        for stage in made.cuttable.cut([boundary]):
            for value in stage.sent:
                assert isinstance(value.fake, torch.Tensor)
                assert not value.name.startswith(("arange", "sym_size", "unsqueeze", "slice"))
    _, made, _ = prepared()
    names = {value.name for stage in made.cuttable.cut(allowed()) for value in stage.sent}
    kept = {node.name for node in made.cuttable.of_inputs}
    assert not names & kept


def test_a_tied_parameter_belongs_to_both_stages() -> None:
    _, made, _ = prepared()
    first, last = made.cuttable.cut([allowed()[len(allowed()) // 2]])
    assert "embedding.weight" in first.parameters
    assert "embedding.weight" in last.parameters


def test_what_goes_to_whom_is_named_in_the_order_of_its_making() -> None:
    _, made, _ = prepared()
    position = {node.name: index for index, node in enumerate(made.cuttable.trunk)}
    for stage in made.cuttable.cut(allowed()[::3]):
        for values in (stage.sent, stage.received):
            order = [position[value.name] for value in values]
            assert order == sorted(order)


# Buffers -------------------------------------------------------------------------------------------------------------


def test_a_buffer_that_is_written_to_is_in_one_stage() -> None:
    def forward(model: Net, x: torch.Tensor) -> Any:
        y = model.linear(x)
        model.seen.add_(y.detach().sum(0))
        z = model.linear(y.tanh())
        return {"loss": (z.tanh() + model.seen).square().mean()}

    model = Net(forward)
    model.register_buffer("seen", torch.zeros(4))
    made = prepare(model, {"x": torch.randn(3, 4)})
    cuts = [position for position, may in enumerate(made.cuttable.may_cut) if may]
    assert cuts
    for boundary in cuts:
        stages = made.cuttable.cut([boundary])
        assert sum("seen" in stage.buffers for stage in stages) == 1
        assert "add_" not in {value.name for stage in stages for value in stage.sent}, "it would change under way"


def test_a_recomputation_finds_buffers_as_the_forward_did() -> None:
    """Such as the vectors of spectral normalisation, which each forward changes and then uses."""

    def forward(model: Net, x: torch.Tensor) -> Any:
        y = model.linear(x)
        model.count.mul_(0.5).add_(1)
        return {"loss": (y.tanh() * model.count.clone()).square().mean(), "y": y}

    model = Net(forward)
    model.register_buffer("count", torch.ones(()))
    x = {"x": torch.randn(6, 4)}
    made = prepare(model, x)
    whole = Run(model, made, x, microbatches=3)
    again = Run(model, made, x, microbatches=3, recomputed=[10**6])
    assert_same(again, whole)
