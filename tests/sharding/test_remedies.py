"""What would remove a collective does remove it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from merak import sharding
from merak.graph import prepare
from merak.sharding import Completion
from tests.engine import zoo
from tests.sharding.test_completion import MESH, Two


def travels(completion: Completion) -> float:
    return sum(one.nbytes + one.backward_nbytes for one in completion.reshards())


@pytest.mark.parametrize(
    "tactics",
    [
        pytest.param([sharding.megatron("tp")], marks=pytest.mark.slow),
        [sharding.megatron("tp"), sharding.sequence("tp")],
        [sharding.batch("dp"), sharding.megatron("tp")],
    ],
    ids=["megatron", "sequence", "2d"],
)
def test_each_collective_is_gone_with_its_remedy(tactics: list[Any]) -> None:
    made = prepare(zoo.make("gpt2"), zoo.batch_of("gpt2", 2, 0))
    completion = sharding.complete(made, mesh=MESH, annotations=tactics)
    reshards = [one for one in completion.reshards() if not one.parameter]
    remedies = [(one, found) for one in reshards if (found := completion.remedy(one)) is not None]
    assert len(remedies) > len(reshards) / 2
    for reshard, remedy in remedies:
        again = sharding.complete(made, mesh=MESH, annotations=[remedy.annotation, *tactics])
        left = {(one.tensor, one.operation, one.axis) for one in again.reshards()}
        assert (reshard.tensor, reshard.operation, reshard.axis) not in left, str(remedy)
        assert travels(again) - travels(completion) == pytest.approx(remedy.nbytes)


def completed(*annotations: Any) -> Completion:
    return sharding.complete(Two(), {"x": torch.randn(4, 8)}, mesh=MESH, annotations=annotations)


@pytest.mark.filterwarnings("ignore:.* is not followed")  # the other one, on purpose
def test_the_line_can_be_copied() -> None:
    completion = completed(sharding.annotate("first.weight", ("tp", None)))
    lines = [line for line in completion.explain().splitlines() if "removed by" in line]
    assert lines
    for line in lines:
        text = line.split("removed by ")[1].split(", put first")[0]
        annotation = eval(text, {"annotate": sharding.annotate, "Dim": sharding.Dim})
        again = completed(annotation, sharding.annotate("first.weight", ("tp", None)))
        assert annotation.label not in again.not_followed


def test_a_tensor_that_is_kept_otherwise_is_annotated_as_it_is_needed() -> None:
    """What is divided along columns is needed whole by what is normalised along them."""
    wish = sharding.annotate("relu", (None, sharding.Dim(closed=True)))
    completion = completed(wish, sharding.annotate("first.weight", ("tp", None)))
    (gather,) = [one for one in completion.reshards() if one.kind == "all-gather"]
    assert "otherwise than it is kept" in gather.cause
    remedy = completion.remedy(gather)
    assert remedy is not None
    assert remedy.nbytes < 0


def test_nothing_is_said_where_nothing_travels() -> None:
    text = completed().explain()
    assert "removed by" not in text
    assert "a step" not in text
