"""The four counters, beside sums by hand, and the learning rate that follows one of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from merak.data import Counters, KeepSchedule, LayerTokenLR, RandomLTD, step_flops
from tests.data import models


def test_counts_are_sums_over_layers_and_steps() -> None:
    model, batch = models.made("gpt2")  # 4 layers, 2 of them drop
    ltd = RandomLTD(model, schedule=KeepSchedule(start=6, steps=3, quantum=6))  # of 24: 6, 12, 18, 24
    counters = Counters(ltd)
    expected = 0.0
    for kept in (6, 12, 18, 24, 24):
        assert ltd.kept(24) == kept
        added = counters.add(batch["input_ids"].shape, ranks=2)
        expected += 2 * 3 * (24 + kept + kept + 24) / 4
        assert added == 2 * 3 * (24 + kept) / 2
        ltd.step()
    assert counters.layer_tokens == expected
    assert counters.raw_tokens == 5 * 2 * 3 * 24
    assert counters.sequences == 5 * 2 * 3
    assert not counters.reached(layer_tokens=expected + 1)
    assert counters.reached(layer_tokens=expected)
    assert counters.reached(raw_tokens=720, layer_tokens=10**9)
    assert str(counters) == "612 layer-tokens, 720 raw tokens, 30 sequences, FLOPs not counted"
    again = Counters()
    again.load_state_dict(counters.state_dict())
    assert again.log() == counters.log()
    again.add((2, 10), drawn=1)
    assert (again.layer_tokens, again.raw_tokens, again.sequences) == (expected + 20, 740, 31)
    with pytest.raises(ValueError, match="say after how many"):
        again.reached()


@pytest.mark.parametrize("case", ["gpt2", "bert-padded-eager", "llama-packed", "vit"])
def test_flops_are_those_that_torch_counts(case: str) -> None:
    model, batch = models.made(case)
    ltd = RandomLTD(model, schedule=KeepSchedule.constant(5))
    flops = step_flops(ltd, batch)
    assert all(parameter.grad is None for parameter in model.parameters())
    length = 17 if case == "vit" else models.TOKENS
    for kept in (5, 9, length):
        ltd.schedule = KeepSchedule.constant(kept)
        with FlopCounterMode(display=False) as counter:
            model(**batch).loss.backward()
        if case == "vit":  # patches are embedded, and one token classified: neither is linear in tokens
            assert flops(models.ROWS, length, kept) == pytest.approx(counter.get_total_flops(), rel=1e-3)
        else:
            assert flops(models.ROWS, length, kept) == pytest.approx(counter.get_total_flops(), rel=1e-9)
    counters = Counters(ltd, flops)
    counters.add((models.ROWS, length))
    assert counters.log()["flops"] == flops(models.ROWS, length, length)
    assert "FLOPs" in str(counters)


def made_lr(**options: object) -> tuple[LayerTokenLR, Counters, torch.optim.Optimizer]:
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "lr": 2.0}, {"params": [torch.zeros(1)]}], lr=1.0)
    counters = Counters()
    return LayerTokenLR(optimizer, counters, **options), counters, optimizer  # type: ignore[arg-type]


def test_the_learning_rate_follows_tokens() -> None:
    lr, counters, _ = made_lr(decay_tokens=1000, warmup_tokens=200, least_ratio=0.1)
    for tokens, ratio in ((0, 0.0), (50, 0.25), (200, 1.0), (600, 0.55), (1000, 0.1), (5000, 0.1)):
        counters.layer_tokens = tokens
        lr.step()
        assert lr.get_last_lr() == pytest.approx([2 * ratio, ratio])
    lr, counters, _ = made_lr(decay_tokens=1000, style="linear")
    counters.layer_tokens = 250
    lr.step()
    assert lr.get_last_lr() == pytest.approx([1.5, 0.75])


def test_warm_up_by_steps_ends_at_what_was_consumed_then() -> None:
    lr, counters, optimizer = made_lr(decay_tokens=1000, warmup_steps=3)
    found = [lr.get_last_lr()[1]]
    for _ in range(3):
        counters.layer_tokens += 100
        lr.step()
        found.append(lr.get_last_lr()[1])
    assert found == [0.25, 0.5, 0.75, 1.0]
    other, their_counters, _ = made_lr(decay_tokens=1000, warmup_steps=3)
    their_counters.load_state_dict(counters.state_dict())
    other.load_state_dict(lr.state_dict())
    for one, count in ((lr, counters), (other, their_counters)):
        count.layer_tokens += 350
        one.step()
        assert one.get_last_lr()[1] == pytest.approx((1 + math.cos(math.pi * 350 / 700)) / 2)
    assert [group["lr"] for group in optimizer.param_groups] == lr.get_last_lr()


def test_bad_input() -> None:
    for options, words in (
        ({"decay_tokens": 5, "style": "root"}, "style of decay is 'root'"),
        ({"decay_tokens": 5, "warmup_tokens": 5}, "decay must end after warm-up"),
        ({"decay_tokens": 5, "warmup_tokens": 1, "warmup_steps": 1}, "not by both"),
        ({"decay_tokens": 5, "least_ratio": 2}, "between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=words):
            made_lr(**options)
    model, batch = models.made("gpt2")
    ltd = RandomLTD(model, schedule=KeepSchedule.constant(5))
    with pytest.raises(ValueError, match="4 or more"):
        step_flops(ltd, {name: value[:, :3] for name, value in batch.items()})
