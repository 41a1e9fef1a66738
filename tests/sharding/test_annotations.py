"""Annotations and tactics of a few tensors: which are refused, which are followed in part, and what is said of that."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel

from merak import sharding
from merak.sharding import Completion, Dim, annotate
from tests.sharding.test_completion import MESH, Two

X = torch.randn(4, 8)


def completed(*annotations: Any, model: nn.Module | None = None, **batch: Any) -> Completion:
    return sharding.complete(model or Two(), batch or {"x": X}, mesh=MESH, annotations=annotations)


def layout(completion: Completion, name: str) -> str:
    (node,) = completion.graph.by_name[name]
    return completion.layout_text(node)


class TwoInputs(Two):
    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> Any:
        """A number."""
        doubled = scale * 2
        return {"loss": (self.second(self.first(x).relu()) * doubled).square().mean()}


CONTRADICTIONS = [
    (("tp", None), (None, "tp"), "dimensions 0 and 1 both ask for axis tp"),
    (("tp", None), ("dp", None), r"dimension 0 is to be \(tp\) and \(dp\)"),
    ((("tp", "dp"), None), (("dp", "tp"), None), r"\(tp, dp\) and \(dp, tp\)"),
    ((Dim(closed=True), None), ("tp", None), r"whole and \(tp\)"),
    ((("dp", "tp"), None), (Dim(("dp",), closed=True), None), r"\(dp, tp\) and \(dp\) and no more"),
    (("tp:(1)2", None), ("dp", None), "dimension 0 is to be"),
]


@pytest.mark.parametrize(("one", "other", "why"), CONTRADICTIONS)
def test_two_of_one_tensor_that_contradict_each_other_are_refused(one: Any, other: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        completed(annotate("first.weight", one), annotate("first.w*", other))
    for name in (annotate("first.weight", one).label, annotate("first.w*", other).label, "of first.weight (8 x 8)"):
        assert name in str(refused.value)


def test_with_a_priority_one_of_them_wins() -> None:
    one, other = annotate("first.weight", ("tp", None)), annotate("first.weight", (None, "tp"), priority=-1)
    with pytest.warns(UserWarning, match=r"\('tp', None\)\) is not followed"):
        assert layout(completed(one, other), "first.weight") == "(-, tp)"


def test_what_says_more_of_the_same_is_no_contradiction() -> None:
    both = completed(annotate("first.weight", ("dp", None)), annotate("first.weight", (("dp", "tp"), None)))
    assert layout(both, "first.weight") == "(dp*tp, -)"
    both = completed(annotate("first.weight", ("dp", None)), annotate("first.weight", (None, "tp")))
    assert layout(both, "first.weight") == "(dp, tp)"


def test_a_tactic_gives_way_without_a_word() -> None:
    plan = sharding.from_tp_plan({"first": "rowwise"}, "tp")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        both = completed(annotate("first.weight", ("tp", None)), plan)
    assert layout(both, "first.weight") == "(tp, -)"
    assert both.not_followed == ["tp_plan['first'] = 'rowwise'"]


def test_what_follows_from_an_earlier_one_is_warned_of() -> None:
    one, other = annotate("first.weight", ("tp", None)), annotate("second.weight", ("tp", None))
    with pytest.warns(
        UserWarning, match=r"'second.weight'.*is not followed.*second\.weight lies as \(-, tp\) by"
    ) as found:
        completion = completed(one, other)
    assert [str(warning.filename) for warning in found] == [__file__]
    (line,) = [line for line in completion.explain().splitlines() if "not followed" in line]
    assert "second.weight lies as (-, tp) by annotate('first.weight', ('tp', None))" in line


@pytest.mark.parametrize(
    "tactic",
    [
        sharding.batch,
        sharding.megatron,
        sharding.sequence,
        sharding.spatial,
        sharding.zero,
        lambda axis: sharding.from_tp_plan({"first": "colwise"}, axis),
    ],
)
@pytest.mark.parametrize("axis", ["pd", "pd:(1)2"])
def test_an_axis_that_the_mesh_has_not_is_refused(tactic: Any, axis: str) -> None:
    with pytest.raises(ValueError, match=r"^\w+\(.*'pd.*'\): the mesh has no axis 'pd.*': it has 'dp', 'tp'"):
        completed(tactic(axis))
    with pytest.raises(ValueError, match="3 is no axis"):
        completed(tactic(3))


@pytest.mark.parametrize("tactic", [sharding.sequence("tp"), sharding.spatial("tp"), sharding.zero("tp")])
def test_a_tactic_that_finds_nothing_says_so(tactic: Any) -> None:
    with pytest.warns(
        UserWarning, match=rf"{tactic.__name__[:4]}.*'tp'\) finds nothing to divide: it looks for"
    ) as found:
        completed(sharding.batch("dp"), tactic)
    assert len(found) == 1


def test_what_a_norm_takes_of_the_batch_stays_whole() -> None:
    model = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
    tactics = [sharding.batch("dp"), sharding.megatron("tp"), sharding.sequence("tp")]
    given = {"src": torch.ones(4, 6, 8)}
    found = sharding.complete(
        model, given, mesh={"dp": 2, "tp": 2}, annotations=tactics, loss_fn=lambda output, _: output.square().mean()
    )
    assert any(way["divided"] for way in found.ways)


def test_a_tactic_of_the_users_own_is_named_too() -> None:
    def mine(graph: Any) -> list[Any]:
        """Not for messages."""
        return [annotate("third.weight", ("tp", None))] if "third.weight" in graph.by_name else []

    with pytest.warns(UserWarning, match="mine finds nothing to divide"):
        completed(sharding.batch("dp"), mine)


def test_that_nothing_is_divided_is_said() -> None:
    with pytest.warns(UserWarning, match="nothing is divided, in spite of the annotations"):
        completed(annotate("first.weight", (None, None)))


def test_nothing_is_said_on_one_rank_nor_without_annotations() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sharding.complete(Two(), {"x": X}, mesh={"tp": 1}, annotations=[sharding.spatial("tp")])
        completed()


def test_rows_of_an_input_are_those_of_the_batch() -> None:
    of_input, of_batch = completed(annotate("x", ("dp", None))), completed(sharding.batch("dp"))
    texts = [{str(node): one.layout_text(node) for node in one.layouts} for one in (of_input, of_batch)]
    assert texts[0] == texts[1]
    assert "(dp, -)" in texts[0].values()


def test_inputs_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match=r"contradict each other: of x \(4 x 8\) dimension 0"):
        completed(annotate("x", ("dp", None)), annotate("x", ("tp", None)))


def test_other_dimensions_of_an_input_are_refused_by_its_name() -> None:
    with pytest.raises(ValueError, match=r"dimension 1 of the input x \(4 x 8\) cannot.*batch\('dp'\)"):
        completed(annotate("x", (None, "tp")))


def test_what_is_made_of_the_batch_alone_is_refused() -> None:
    given = {"x": X, "scale": torch.randn(4, 8)}
    with pytest.raises(ValueError, match="it is made of the batch alone"):
        completed(annotate("mul", ("dp", None)), model=TwoInputs(), **given)
    assert "mul_1" in {node.name for node in completed(model=TwoInputs(), **given).layouts}


@pytest.mark.parametrize(
    ("name", "closest"),
    [
        ("frist.weight", "first.weight"),
        ("secnd", "second"),
        ("relu_1", "relu"),
        ("layers.*.firs.weight", "first.weight"),
    ],
)
def test_of_a_name_that_is_of_nothing_the_closest_are_said(name: str, closest: str) -> None:
    with pytest.raises(ValueError, match="no tensor is called so; the closest names are") as refused:
        completed(annotate(name, ("tp", None)))
    assert closest in str(refused.value).split("closest names are ")[1].split(", ")


def test_dimensions_are_those_of_the_parameters_name() -> None:
    with pytest.raises(ValueError, match=r": first\.weight \(8 x 8\) has 2 dimensions, and the specification 3"):
        completed(annotate("first.weight", ("tp", None, None)))
    with pytest.raises(ValueError, match=r": its result linear \(4 x 8\) has 2 dimensions, and the specification 1"):
        completed(annotate("first", ("tp",)))
    with pytest.raises(ValueError, match=r"dimension 0 of first\.weight .* and dimension 1 of first\.weight"):
        completed(annotate("first.weight", ("tp", "tp")))


@pytest.mark.parametrize("wish", [sharding.batch("dp"), annotate("first.weight", ("dp", None))])
def test_one_needs_no_list(wish: Any) -> None:
    alone = sharding.complete(Two(), {"x": X}, mesh=MESH, annotations=wish)
    assert alone.explain() == completed(wish).explain()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"annotations": "batch"}, "annotations is 'batch'; it must be a list"),
        ({"annotations": None}, "annotations is None; it must be a list"),
        ({"mesh": [2, 2]}, r"mesh is \[2, 2\]; it must have sizes of axes by name"),
        ({"mesh": {}}, r"mesh is {}; it must have"),
        ({"mesh": {"dp": 0}}, "axis 'dp' has size 0; it must be 1 or more"),
        ({"mesh": {"dp": 2.0}}, "axis 'dp' has size 2.0; it must be 1 or more, a whole number"),
        ({"batch": (X,)}, r"is given a tuple .* such as \{'x': ...\}"),
        ({"batch": None}, r"needs an example of its batch .* such as \{'x': ...\}"),
    ],
)
def test_what_is_of_the_wrong_kind_is_refused_in_a_sentence(given: dict[str, Any], words: str) -> None:
    right: dict[str, Any] = {"batch": {"x": X}, "mesh": MESH, "annotations": [sharding.batch("dp")]}
    with pytest.raises(ValueError, match=words):
        sharding.complete(Two(), **{**right, **given})


@pytest.mark.parametrize(("style", "name"), [(ColwiseParallel(), "colwise"), (RowwiseParallel, "rowwise")])
def test_styles_of_torch_are_given_by_name(style: Any, name: str) -> None:
    with pytest.raises(ValueError, match=rf"for torch's \w+Parallel give '{name}'; known are the names colwise"):
        completed(sharding.from_tp_plan({"first": style}, "tp"))
