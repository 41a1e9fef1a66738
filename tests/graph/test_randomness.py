"""Random numbers that do not depend on where and when they are drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from merak.graph import capture, prepare
from merak.graph.normal_form import normalise
from merak.graph.randomness import RandomState, generators_kept, is_random, seed_random_operations
from tests.graph.running import Run, assert_same_gradients
from tests.graph.test_capture import Net

Body = Callable[..., Any]


def loss_of(y: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"loss": y.square().mean(), "y": y}


def dropout(model: Net, x: torch.Tensor) -> Any:
    return loss_of(F.dropout(model.linear(x), 0.5))


def attention(model: Net, x: torch.Tensor) -> Any:
    y = model.linear(x)[:, None, :, None].expand(-1, 2, -1, 3)
    return loss_of(F.scaled_dot_product_attention(y, y, y, dropout_p=0.5)[:, 0, :, 0])


def drop_path(model: Net, x: torch.Tensor) -> Any:
    kept = x.new_empty(x.shape[0], 1).bernoulli_(0.5)
    return loss_of(x + model.linear(x) * kept / 0.5)


def drop_path_as_in_swin(model: Net, x: torch.Tensor) -> Any:
    kept = (0.5 + torch.rand((x.shape[0], 1), dtype=x.dtype)).floor_()
    return loss_of(model.linear(x).div(0.5) * kept)


def noise(model: Net, x: torch.Tensor) -> Any:
    unused = torch.empty_like(x)
    unused.normal_()
    return loss_of(model.linear(x) + unused + torch.randn_like(x))


def in_a_region(model: Net, x: torch.Tensor) -> Any:
    with torch.no_grad():
        shift = torch.rand_like(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = F.dropout(model.linear(x), 0.5)
    return loss_of(y.float() + shift)


RANDOM: list[Body] = [dropout, attention, drop_path, drop_path_as_in_swin, noise, in_a_region]
BATCH = {"x": torch.arange(24.0).reshape(6, 4).cos()}


@pytest.mark.parametrize("body", RANDOM)
def test_same_numbers_again_and_others_for_others(body: Body) -> None:
    model = Net(body).train()
    prepared = prepare(model, BATCH)

    def outputs(**how: Any) -> torch.Tensor:
        torch.manual_seed(torch.seed())  # whatever the generator was
        return torch.cat([one["y"] for one in Run(model, prepared, BATCH, **how).outputs])

    first = outputs(microbatches=2)
    assert torch.equal(first, outputs(microbatches=2))
    assert not torch.equal(first, outputs(microbatches=2, seed=1))
    assert not torch.equal(first, outputs(microbatches=2, step=1))
    twins = {"x": BATCH["x"][:3].repeat(2, 1)}
    made = Run(model, prepared, twins, microbatches=2)
    assert not torch.equal(made.outputs[0]["y"], made.outputs[1]["y"]), "micro-batches have numbers of their own"


@pytest.mark.parametrize("body", RANDOM)
def test_cuts_and_recomputation_do_not_change_them(body: Body) -> None:
    model = Net(body).train()
    prepared = prepare(model, BATCH)
    whole = Run(model, prepared, BATCH, microbatches=2)
    for boundary, may in enumerate(prepared.cuttable.may_cut):
        if may:
            for recomputed in (None, [10**6] * 2, [1, 1]):
                made = Run(model, prepared, BATCH, microbatches=2, boundaries=[boundary], recomputed=recomputed)
                assert made.losses == whole.losses
                assert_same_gradients(made.gradients, whole.gradients, 1e-6)
    made = Run(model, prepared, BATCH, microbatches=2, recomputed=[10**6])
    assert_same_gradients(made.gradients, whole.gradients, 1e-6)


def test_every_random_operation_has_a_stream_of_its_own() -> None:
    def forward(model: Net, x: torch.Tensor) -> Any:
        one = torch.ones_like(x)
        return loss_of(model.linear(x)) | {"first": F.dropout(one), "second": F.dropout(one)}

    model = Net(forward)
    (output,) = Run(model, prepare(model, BATCH), BATCH).outputs
    assert not torch.equal(output["first"], output["second"])


def test_the_share_of_what_is_dropped_is_right() -> None:
    def forward(model: Net, x: torch.Tensor) -> Any:
        return loss_of(F.dropout(torch.ones(x.shape[0], 4000), 0.3)) | {"z": model.linear(x).mean()}

    model = Net(forward)
    (output,) = Run(model, prepare(model, BATCH), BATCH).outputs
    assert float((output["y"] == 0).float().mean()) == pytest.approx(0.3, abs=0.02)
    kept = output["y"][output["y"] != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / 0.7))


def names(body: Body, training: bool = True) -> list[str]:
    captured = capture(Net(body).train(), BATCH, training=training)
    normalise(captured)
    found = seed_random_operations(captured.graph)
    assert seed_random_operations(captured.graph) == [], "once is enough"
    return found


def test_what_draws_nothing_is_not_seeded() -> None:
    def forward(model: Net, x: torch.Tensor) -> Any:
        y = model.linear(x)
        y = F.dropout(y, 0.0) + F.dropout(y, 0.5, training=False) + model.dropout(y)
        q = y[:, None, None, :]
        return loss_of(y + F.scaled_dot_product_attention(q, q, q)[:, 0, 0])

    model = Net(forward)
    model.dropout = nn.Dropout(0.5)
    for training, expected in ((True, ["dropout"]), (False, [])):
        captured = capture(model, BATCH, training=training)
        normalise(captured)
        assert [name.split("_")[0] for name in seed_random_operations(captured.graph)] == expected


def test_all_kinds_are_found() -> None:
    assert (
        len(names(dropout)) == len(names(attention)) == len(names(drop_path)) == len(names(drop_path_as_in_swin)) == 1
    )
    assert len(names(noise)) == len(names(in_a_region)) == 2


def test_it_does_not_matter_whether_a_name_was_given_by_training() -> None:
    captured = capture(Net(dropout), BATCH)
    assert [node.name for node in captured.graph.nodes if is_random(node)] == ["dropout"]


def test_the_users_own_stream_is_undisturbed() -> None:
    model = Net(dropout)
    prepared = prepare(model, BATCH)
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    with generators_kept(torch.device("cpu")):
        Run(model, prepared, BATCH, microbatches=3)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(11)

    def draw_and_fail() -> None:
        with generators_kept(torch.device("cpu")):
            torch.rand(3)
            raise KeyError

    with pytest.raises(KeyError):
        draw_and_fail()
    assert torch.equal(torch.rand(3), expected), "after an error too"


def test_capturing_leaves_the_users_stream_alone() -> None:
    model = Net(dropout)
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    capture(model, BATCH)
    assert torch.equal(torch.rand(3), expected)


def test_seeds_are_spread() -> None:
    seeds = set()
    for seed in (-1, 0, 1, 2**63):
        for step in range(5):
            for microbatch in range(5):
                RandomState.set(seed, step, microbatch)
                for operation in range(5):
                    value = RandomState.seed_for(operation)
                    torch.Generator().manual_seed(value)  # it is a seed
                    seeds.add(value)
    assert len(seeds) == 4 * 5 * 5 * 5
