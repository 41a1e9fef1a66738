"""Random layerwise token dropping on models as they are, beside loops over samples and tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from merak.data import KeepSchedule, RandomLTD, keep_tokens
from tests.data import models

SEED, KEPT = 3, 7


def drop_slowly(model: nn.Module, index_of: Callable[[int, int], torch.Tensor]) -> None:
    """The plain reference: the middle layers' forwards, by loops, in place of them."""
    for number, layer in enumerate(list(models.stack_of(model))[1:-1]):
        layer.forward = slow_forward(layer.forward, number, index_of)  # type: ignore[method-assign]


def slow_forward(forward: Callable[..., Any], number: int, index_of: Callable[[int, int], torch.Tensor]) -> Any:
    def dropped(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        index = index_of(number, hidden.shape[1]).tolist()
        few = forward(
            picked(hidden, index),
            *(few_of(value, index, hidden.shape[1]) for value in args),
            **{name: few_of(value, index, hidden.shape[1]) for name, value in kwargs.items()},
        )
        rows = []
        for s, row in enumerate(index):
            tokens = [hidden[s, t] for t in range(hidden.shape[1])]
            for j, token in enumerate(row):
                tokens[token] = few[s, j]
            rows.append(torch.stack(tokens))
        return torch.stack(rows)

    return dropped


def picked(value: torch.Tensor, index: list[list[int]]) -> torch.Tensor:
    """By sample and kept token; of a tensor that all samples share, from its one row."""
    return torch.stack([torch.stack([value[s % len(value), t] for t in row]) for s, row in enumerate(index)])


def few_of(value: Any, index: list[list[int]], length: int) -> Any:
    if isinstance(value, tuple):
        return tuple(few_of(one, index, length) for one in value)
    if not isinstance(value, torch.Tensor):
        return None if type(value).__name__ == "DynamicCache" else value
    if value.dim() == 4:
        return torch.stack([value[s % len(value)][:, row][:, :, row] for s, row in enumerate(index)])
    assert value.shape[1] == length
    return picked(value, index)


def index_for(step: int, microbatch: int) -> Callable[[int, int], torch.Tensor]:
    def index(number: int, length: int) -> torch.Tensor:
        return keep_tokens(models.ROWS, length, KEPT, seed=SEED, step=step, microbatch=microbatch, layer=number)

    return index


@pytest.mark.parametrize("case", models.CASES)
def test_same_numbers_as_a_loop_over_samples(case: str) -> None:
    model, batch = models.made(case)
    ltd = RandomLTD(model, schedule=KeepSchedule.constant(KEPT), seed=SEED)
    ltd.at(4, 2)
    logits, gradients = models.outcome(model, batch)

    plain, batch = models.made(case)
    drop_slowly(plain, index_for(4, 2))
    expected, expected_gradients = models.outcome(plain, batch)
    assert torch.equal(logits, expected)
    for mine, theirs in zip(gradients, expected_gradients, strict=True):
        assert (mine - theirs).norm() <= 1e-5 * theirs.norm()
    whole, _ = models.outcome(*models.made(case))
    assert not torch.equal(logits, whole)  # something was dropped


@pytest.mark.parametrize("case", models.CASES)
@pytest.mark.parametrize("off", ["keeps all", "evaluates", "removed"])
def test_the_models_own_numbers_when_nothing_is_dropped(case: str, off: str) -> None:
    model, batch = models.made(case)
    ltd = RandomLTD(model, schedule=KeepSchedule.constant(10_000 if off == "keeps all" else KEPT))
    plain, _ = models.made(case)
    if off == "evaluates":
        model.eval()
        plain.eval()
    if off == "removed":
        ltd.remove()
        assert [type(layer) for layer in model.modules()] == [type(layer) for layer in plain.modules()]
    logits, gradients = models.outcome(model, batch)
    expected, expected_gradients = models.outcome(plain, batch)
    assert torch.equal(logits, expected)
    assert all(torch.equal(a, b) for a, b in zip(gradients, expected_gradients, strict=True))
    assert list(model.state_dict()) == list(plain.state_dict())


def by_positions(case: str) -> torch.Tensor:
    """Who sees whom, said by tokens' places in the whole sequence, [rows, 1, tokens, tokens]."""
    at = torch.arange(models.TOKENS)
    causal = (at[:, None] >= at[None, :]).expand(models.ROWS, 1, -1, -1)
    if case == "llama":
        return causal
    if case == "llama-packed":
        return models.document_mask()
    return models.document_mask(window=6) if "packed" in case else causal & (at[:, None] - at[None, :] < 6)


@pytest.mark.parametrize("case", ["llama", "llama-packed", "mistral-window", "mistral-window-packed"])
def test_kept_tokens_see_those_that_their_places_in_the_sequence_let_them(case: str) -> None:
    model, batch = models.made(case)
    ltd = RandomLTD(model, schedule=KeepSchedule.constant(KEPT), seed=SEED)
    seen: list[torch.Tensor] = []
    for layer in ltd.layers:
        attention = next(module for name, module in layer.named_children() if "attn" in name)
        attention.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
        )
    model(**batch)
    for number, mask in enumerate(seen):
        rows = index_for(0, 0)(number, models.TOKENS).tolist()
        expected = torch.stack([by_positions(case)[s][:, row][:, :, row] for s, row in enumerate(rows)])
        if mask is None:  # causal, by the kernel
            mask = torch.ones(KEPT, KEPT, dtype=torch.bool).tril().expand_as(expected)
        allowed = mask if mask.dtype is torch.bool else mask == 0
        assert torch.equal(allowed, expected)
    assert len(seen) == len(ltd.layers) == 2


@pytest.mark.parametrize("case", ["gpt2", "llama-packed"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputed_layers_keep_the_same_tokens(case: str, reentrant: bool) -> None:
    results = []
    for recompute in (False, True):
        model, batch = models.made(case)
        if recompute:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        RandomLTD(model, schedule=KeepSchedule.constant(KEPT), seed=SEED)
        first, second = model(**batch), model(**batch)  # backward comes after the next forward, as in a pipeline
        (first.loss + second.loss).backward()
        results.append([first.logits.detach(), second.logits.detach(), *(p.grad for p in model.parameters())])
    assert not torch.equal(results[0][0], results[0][1])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_forwards_count_micro_batches_over_all_ranks() -> None:
    model, batch = models.made("bert")
    ltd = RandomLTD(model, schedule=KeepSchedule.constant(KEPT), seed=SEED, rank=1, world_size=3)
    taken: list[torch.Tensor] = []
    ltd.layers[1].register_forward_pre_hook(
        lambda module, args, kwargs: taken.append(kwargs["merak_kept_tokens"]), with_kwargs=True
    )
    ltd.at(5)
    for _ in range(2):
        model(**batch)
    ltd.step()
    model(**batch)
    for index, (step, microbatch) in zip(taken, [(5, 1), (5, 4), (6, 1)], strict=True):
        assert torch.equal(index, index_for(step, microbatch)(1, models.TOKENS))
        assert torch.equal(index, ltd.indices(step, microbatch, models.ROWS, models.TOKENS)[1])
    state = ltd.state_dict()
    other = RandomLTD(models.made("bert")[0], schedule=KeepSchedule.constant(KEPT))
    other.load_state_dict(state)
    assert (other.current_step, other.seed) == (6, SEED)


def test_indices_may_be_given() -> None:
    model, batch = models.made("llama")
    ltd = RandomLTD(model, schedule=KeepSchedule.constant(KEPT), seed=SEED)
    ltd.at(2, 1)
    drawn, _ = models.outcome(model, batch)
    with ltd.using(ltd.indices(2, 1, models.ROWS, models.TOKENS)):
        given, _ = models.outcome(model, batch)
    assert torch.equal(given, drawn)


def test_layers_outside_the_stack_may_be_named() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.three(self.two(self.one(x)))

    model = Plain()
    with pytest.raises(ValueError, match="no layers are found in Plain"):
        RandomLTD(model, schedule=KeepSchedule.constant(2))
    ltd = RandomLTD(model, ["two"], schedule=KeepSchedule.constant(2))
    x = torch.randn(1, 5, 4)
    before, after = model.one(x), model.two(model.one(x))
    changed = (after != before).any(-1).nonzero()[:, 1]
    assert changed.tolist() == ltd.indices(0, 0, 1, 5)[0][0].tolist()


def test_bad_input() -> None:
    keep = KeepSchedule.constant(KEPT)
    model, _ = models.made("gpt2")
    for layers, words in (
        ("odd", "layers are 'odd'"),
        ([9], "numbers below 4 of transformer.h"),
        ([1, 1], "named twice"),
        (["transformer.nothing"], "no module 'transformer.nothing'"),
    ):
        with pytest.raises(ValueError, match=words):
            RandomLTD(model, layers, schedule=keep)
    ltd = RandomLTD(model, schedule=keep)
    with pytest.raises(ValueError, match="drop tokens already"):
        RandomLTD(model, schedule=keep)
    ltd.remove()
    both = nn.ModuleDict({"a": models.made("gpt2")[0], "b": models.made("bert")[0]})
    with pytest.raises(ValueError, match=r"several lists of layers, a.transformer.h, b.bert.encoder.layer"):
        RandomLTD(both, schedule=keep)
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match="'flex_attention'"):
        RandomLTD(model, schedule=keep)


def test_arguments_of_which_it_is_not_known_how_they_follow_are_refused() -> None:
    class Layer(nn.Module):
        def forward(self, hidden: torch.Tensor, biases: torch.Tensor) -> torch.Tensor:
            return hidden + biases

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(Layer() for _ in range(3))

        def forward(self, hidden: torch.Tensor, biases: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                hidden = layer(hidden, biases)
            return hidden

    hidden, biases = torch.zeros(2, 6, 4), torch.randn(2, 6, 4)
    ltd = RandomLTD(model := Model(), schedule=KeepSchedule.constant(2))
    with pytest.raises(ValueError, match=r"'biases' has shape \(2, 6, 4\)"):
        model(hidden, biases)
    ltd.remove()
    ltd = RandomLTD(model, schedule=KeepSchedule.constant(2), follow={"biases": (1,)})
    expected = 2 * biases
    for s, row in enumerate(ltd.indices(0, 0, 2, 6)[0].tolist()):
        expected[s, row] = 3 * biases[s, row]
    torch.testing.assert_close(model(hidden, biases), expected)
