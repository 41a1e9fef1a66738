"""The normal form: operations in place, views, lists, regions; and what shares memory."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from merak.graph import CaptureError, capture, prepare
from merak.graph.normal_form import AliasGroups, normalise
from tests.graph.running import Run
from tests.graph.test_capture import Net, assert_as_plain

Body = Callable[..., Any]


def loss_of(y: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"loss": y.square().mean(), "y": y}


def normal(body: Body, **batch: Any) -> tuple[fx.Graph, AliasGroups]:
    captured = capture(Net(body), batch or {"x": torch.randn(3, 4)})
    groups = normalise(captured)
    captured.graph.lint()
    return captured.graph, groups


def named(graph: fx.Graph, *names: str) -> list[fx.Node]:
    by_name = {node.name: node for node in graph.nodes}
    return [by_name[name] for name in names]


# Lists ---------------------------------------------------------------------------------------------------------------


def splits(model: Net, x: torch.Tensor) -> Any:
    parts = model.linear(x).split(1, dim=1)
    y = parts[0] * 2
    return loss_of(torch.cat([y, parts[3], parts[1], y * parts[2]], 1))


def chunks(model: Net, x: torch.Tensor) -> Any:
    first, second = model.linear(x).chunk(2, dim=1)
    return loss_of(torch.cat([first.sigmoid(), second], 1))


def top(model: Net, x: torch.Tensor) -> Any:
    y = model.linear(x)
    values, indices = y.topk(2)
    return loss_of(values * 2 + y.gather(1, indices))


def unbinds(model: Net, x: torch.Tensor) -> Any:
    return loss_of(torch.stack([one * index for index, one in enumerate(model.linear(x).unbind(1))]))


@pytest.mark.parametrize("body", [splits, chunks, top, unbinds])
def test_items_are_taken_right_behind_their_list(body: Body) -> None:
    graph, _ = normal(body)
    nodes = list(graph.nodes)
    found = 0
    for index, node in enumerate(nodes):
        if node.target is operator.getitem:
            assert nodes[index - 1] is node.args[0] or nodes[index - 1].target is operator.getitem
            found += 1
    assert found > 1
    assert_as_plain(Net(body), {"x": torch.randn(3, 4)})


def test_items_that_are_taken_late_are_taken_at_once() -> None:
    captured = capture(Net(splits), {"x": torch.randn(3, 4)})
    for node in captured.graph.find_nodes(op="call_function", target=operator.getitem):
        min(node.users, key=list(captured.graph.nodes).index).prepend(node)
    normalise(captured)
    names = [node.name for node in captured.graph.nodes]
    first = names.index("split")
    assert sorted(names[first + 1 : first + 5]) == ["getitem", "getitem_1", "getitem_2", "getitem_3"]
    captured.graph.lint()


# Writes --------------------------------------------------------------------------------------------------------------


def test_writes_to_inputs_do_not_change_the_users_batch() -> None:
    def forward(model: Net, x: torch.Tensor, ids: torch.Tensor) -> Any:
        ids.masked_fill_(ids == 3, 0)
        x[:, 0] = 1.0
        x.view(-1).mul_(2)
        return loss_of(model.linear(x) + model.embedding(ids))

    batch = {"x": torch.randn(3, 4), "ids": torch.tensor([3, 1, 3])}
    before = {key: value.clone() for key, value in batch.items()}
    model = Net(forward)
    made = Run(model, prepare(model, batch), batch)
    assert all(torch.equal(batch[key], before[key]) for key in batch)
    expected = model(**{key: value.clone() for key, value in batch.items()})
    torch.testing.assert_close(made.outputs[0]["y"], expected["y"].detach())


def test_a_tensor_that_is_written_to_has_to_be_a_buffer() -> None:
    def forward(model: Net, x: torch.Tensor) -> Any:
        model.shift.add_(1)
        return loss_of(model.linear(x) + model.shift)

    model = Net(forward)
    model.shift = torch.ones(4)
    with pytest.raises(CaptureError, match=r"writes to its tensor shift .*add_.*make a buffer of it"):
        prepare(model, {"x": torch.randn(4, 4)})


def test_writes_to_tensors_made_in_forward_do_not_add_up() -> None:
    def forward(model: Net, x: torch.Tensor) -> Any:
        shift = torch.tensor([1.0, 2.0, 3.0, 4.0])
        shift += 1
        return loss_of(model.linear(x) + shift)

    model, batch = Net(forward), {"x": torch.randn(4, 4)}
    made = Run(model, prepare(model, batch), batch, microbatches=4)
    torch.testing.assert_close(torch.cat([one["y"] for one in made.outputs]), model(**batch)["y"].detach())


def test_a_parameter_that_is_written_to_is_refused() -> None:
    def forward(model: Net, x: torch.Tensor) -> Any:
        with torch.no_grad():
            model.linear.weight.view(-1).clamp_(-1, 1)
        return loss_of(model.linear(x))

    with pytest.raises(
        CaptureError, match=r"writes to its parameter linear.weight .*clamp_.*Keep such values in a buffer"
    ):
        normal(forward)


def chained(model: Net, x: torch.Tensor) -> Any:
    y = model.linear(x)
    view = y.view(-1, 2)
    y.add_(1)
    view.mul_(2)
    z = model.linear(y.clone())
    z *= 0.5
    z[:, 1:3].neg_()
    return loss_of(z + view.view(-1, 4))


def filled(model: Net, x: torch.Tensor) -> Any:
    y = torch.zeros(x.shape[0], 8)
    y[:, :4] = model.linear(x)
    y[:, 4:] = model.linear(x * 2)
    return loss_of(y)


def list_in_place(model: Net, x: torch.Tensor) -> Any:
    y = model.linear(x) * 1
    y.split(2, dim=1)  # views that are not used
    first, second = y.tensor_split(2, dim=1)
    first.mul_(3)
    return loss_of(y.sum(1, keepdim=True) + second)


def after_dropout(model: Net, x: torch.Tensor) -> Any:
    y = model.linear(x)
    z = F.dropout(y, 0.0)
    z.add_(1)
    return loss_of(y * z)


def broadcast(model: Net, x: torch.Tensor) -> Any:
    first, second = model.linear(x), model.linear(x * 2)
    a, b = torch.broadcast_tensors(first, second)
    a.mul_(2)
    b.mul_(3)
    return loss_of(first + second + a * b)


def transposed_by_einsum(model: Net, x: torch.Tensor) -> Any:
    y = model.linear(x)
    torch.einsum("ij->ji", y).mul_(2)
    return loss_of(y)


WRITING = [chained, filled, list_in_place, after_dropout, broadcast, transposed_by_einsum]


@pytest.mark.parametrize("body", WRITING)
def test_operations_in_place_give_the_same_numbers_wherever_the_cut_is(body: Body) -> None:
    model, batch = Net(body), {"x": torch.randn(3, 4)}
    prepared = prepare(model, batch)
    expected = model(**batch)["y"].detach()
    tried = 0
    for boundary, may in enumerate(prepared.cuttable.may_cut):
        if may:
            for recomputed in (None, [boundary, 0], [0, 10**6]):
                made = Run(model, prepared, batch, boundaries=[boundary], recomputed=recomputed)
                torch.testing.assert_close(made.outputs[0]["y"], expected)
                tried += 1
    assert tried > 2
    assert_as_plain(model, batch)


# Groups --------------------------------------------------------------------------------------------------------------


def test_groups_of_views() -> None:
    graph, groups = normal(chained)
    linear, view, add_, mul_ = named(graph, "linear", "view", "add_", "mul_")
    assert {groups.root[node] for node in (linear, view, add_, mul_)} == {linear}
    assert groups.writers[linear] == [add_, mul_]
    (second,) = named(graph, "linear_1")
    assert groups.root[second] is second, "a result of its own"
    assert [writer.name for writer in groups.writers[second]] == ["mul__1", "neg_"]


def test_what_returns_its_argument_is_in_its_group() -> None:
    graph, groups = normal(after_dropout)
    linear, dropout, add_ = named(graph, "linear", "dropout", "add_")
    assert groups.root[dropout] is linear
    assert groups.writers == {linear: [add_]}


def test_groups_that_an_operation_joins() -> None:
    graph, groups = normal(broadcast)
    first, second, joining = named(graph, "linear", "linear_1", "broadcast_tensors")
    assert groups.root[first] is groups.root[second] is groups.root[joining]
    assert [node.name for node in groups.writers[first]] == ["mul_", "mul__1"]


def test_statistics_are_written_to_in_training_only() -> None:
    def forward(model: Net, x: torch.Tensor) -> Any:
        return loss_of(model.norm(model.linear(x)))

    model = Net(forward)
    model.norm = nn.BatchNorm1d(4)
    for training in (True, False):
        captured = capture(model, {"x": torch.randn(3, 4)}, training=training)
        written = {captured.sources[root.name].key for root in normalise(captured).writers}
        statistics = {"norm.running_mean", "norm.running_var"}
        assert written == (statistics | {"norm.num_batches_tracked"} if training else set())


# Regions -------------------------------------------------------------------------------------------------------------


def without_gradients(model: Net, x: torch.Tensor) -> Any:
    with torch.no_grad():
        still = model.linear(x)
        still.mul_(2)
        parts = still.chunk(2, 1)
    with torch.no_grad(), torch.enable_grad():
        moving = model.linear(x + 1)
    return loss_of(model.linear(x) * still + parts[0].repeat(1, 2) + moving)


def test_regions_without_gradients_are_taken_in() -> None:
    graph, _ = normal(without_gradients)
    assert not [node for node in graph.nodes if node.op == "get_attr"]
    assert_as_plain(Net(without_gradients), {"x": torch.randn(3, 4)})


def under_autocast(model: Net, x: torch.Tensor) -> Any:
    with torch.autocast("cpu", torch.bfloat16):
        y = model.linear(x) @ model.linear.weight
    return loss_of(y.float() + model.linear(x))


def test_regions_under_autocast_stay() -> None:
    model, batch = Net(under_autocast), {"x": torch.randn(3, 4)}
    graph, _ = normal(under_autocast)
    assert [node for node in graph.nodes if node.op == "get_attr"]
    assert (
        model(**batch)["y"]
        .detach()
        .float()
        .ne(Net(lambda m, x: {"y": m.linear(x) @ m.linear.weight})(**batch)["y"])
        .any()
    )
    assert_as_plain(model, batch, tolerance=0.02)
    prepared = prepare(model, batch)
    for boundary, may in enumerate(prepared.cuttable.may_cut):
        if may:
            made = Run(model, prepared, batch, boundaries=[boundary])
            torch.testing.assert_close(made.outputs[0]["y"], model(**batch)["y"].detach())


def test_assertions_and_what_nobody_uses_are_gone() -> None:
    def forward(model: Net, x: torch.Tensor) -> Any:
        torch._assert(x.shape[1] == 4, "four")
        model.linear(x).exp()  # not used
        return loss_of(model.linear(x).to(torch.float32))

    graph, _ = normal(forward)
    names = [node.name for node in graph.nodes if node.op == "call_function"]
    assert not [name for name in names if "assert" in name or name.startswith("exp")]
    assert sum(name.startswith("linear") for name in names) == 1
