"""The operations on tokens, beside loops over samples; their derivatives, their shapes, what they refuse."""

from __future__ import annotations

import random

import pytest
import torch

from merak import data

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.complex64)


def slowly_gathered(full: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.stack([full[s, t] for t in row]) for s, row in enumerate(index.tolist())])


def slowly_scattered(full: torch.Tensor, part: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    result = full.clone()
    for s, row in enumerate(index.tolist()):
        for j, token in enumerate(row):
            result[s, token] = part[s, j]
    return result


def drawn(seed: int) -> tuple[tuple[int, ...], torch.Tensor]:
    """A shape of tokens, and an index."""
    numbers = random.Random(seed)
    shape = (numbers.randint(1, 4), numbers.randint(1, 40), *(numbers.randint(1, 5) for _ in range(seed % 3)))
    kept = numbers.randint(1, shape[1])
    return shape, data.keep_tokens(shape[0], shape[1], kept, seed=seed, step=1, microbatch=2, layer=3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seed", range(6))
def test_tokens_are_moved_bit_for_bit(dtype: torch.dtype, seed: int) -> None:
    shape, index = drawn(seed)
    full = torch.randint(-100, 100, shape).to(dtype)
    if seed % 2 and full.dim() > 2:
        full = full.transpose(0, 1).contiguous().transpose(0, 1)  # strides of another order
    part = data.gather_tokens(full, index)
    assert torch.equal(part, slowly_gathered(full, index))
    other = torch.randint(-100, 100, part.shape).to(dtype)
    assert torch.equal(data.scatter_tokens(full, other, index), slowly_scattered(full, other, index))
    zeros = torch.zeros(shape, dtype=dtype)
    assert torch.equal(data.place_tokens(other, index, shape[1]), slowly_scattered(zeros, other, index))


@pytest.mark.parametrize("seed", range(3))
def test_derivatives_are_those_of_differences(seed: int) -> None:
    shape, index = drawn(seed)
    full = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    part = torch.randn(data.gather_tokens(full, index).shape, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lambda x: data.gather_tokens(x, index), full)
    assert torch.autograd.gradcheck(lambda x: data.place_tokens(x, index, shape[1]), part)
    assert torch.autograd.gradcheck(lambda x, y: data.scatter_tokens(x, y, index), (full, part))
    assert torch.autograd.gradgradcheck(lambda x, y: data.scatter_tokens(x * x, y * y, index), (full, part))


@pytest.mark.parametrize("seed", range(4))
def test_a_function_of_some_tokens_has_the_gradients_of_gathering_and_scattering(seed: int) -> None:
    shape, index = drawn(seed)

    def outcome(through: bool) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        full, scale = torch.randn(shape, requires_grad=True), torch.randn((), requires_grad=True)
        hidden = full * 2

        def function(part: torch.Tensor) -> torch.Tensor:
            return torch.tanh(part * scale)

        if through:
            result = data.apply_to_tokens(function, hidden, index)
        else:
            result = data.scatter_tokens(hidden, function(data.gather_tokens(hidden, index)), index)
        gradients = torch.autograd.grad(result.square().sum(), (full, scale), create_graph=True)
        second = torch.autograd.grad(sum(one.square().sum() for one in gradients), (full, scale))
        return [result, *gradients, *second]

    for mine, theirs in zip(outcome(True), outcome(False), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_opcheck() -> None:
    index = data.keep_tokens(2, 7, 3, seed=0, step=0, microbatch=0, layer=0)
    full = torch.randn(2, 7, 4, requires_grad=True)
    part = torch.randn(2, 3, 4, requires_grad=True)
    ops = torch.ops.merak
    torch.library.opcheck(ops.gather_tokens, (full, index))
    torch.library.opcheck(ops.place_tokens, (part, index, 7))
    torch.library.opcheck(ops.scatter_tokens, (full, part, index))
    torch.library.opcheck(ops.keep_tokens_, (index, 7, 1, 2, 3, 4))


def test_torch_compile_captures_them_without_a_break() -> None:
    def doubled(full: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return data.scatter_tokens(full, data.gather_tokens(full, index) * 2, index)

    compiled = torch.compile(doubled, fullgraph=True, backend="aot_eager", dynamic=True)
    for seed in range(4):
        shape, index = drawn(3 * seed)
        full = torch.randn(shape)
        assert torch.equal(compiled(full, index), doubled(full, index))


def test_what_is_kept_is_ascending_random_and_a_function_of_its_place() -> None:
    where = {"seed": 5, "step": 7, "microbatch": 3, "layer": 2}
    index = data.keep_tokens(6, 100, 30, **where)
    assert (index.diff(dim=1) > 0).all()
    assert 0 <= int(index.min()) <= int(index.max()) < 100
    assert torch.equal(index, data.keep_tokens(6, 100, 30, **where))
    assert torch.equal(index[:2], data.keep_tokens(2, 100, 30, **where))
    assert len({tuple(row) for row in index.tolist()}) == 6
    for name in where:
        assert not torch.equal(index, data.keep_tokens(6, 100, 30, **{**where, name: 1}))


def test_bad_input() -> None:
    full, index = torch.zeros(2, 5, 3), torch.tensor([[0, 4], [1, 2]])
    for bad in (torch.tensor([[0, 5], [1, 2]]), torch.tensor([[0, 4], [2, 1]]), torch.tensor([[0, 0], [1, 2]])):
        with pytest.raises(ValueError, match="ascending numbers below 5"):
            data.gather_tokens(full, bad)
    with pytest.raises(ValueError, match="must be int64"):
        data.gather_tokens(full, index.int())
    with pytest.raises(ValueError, match="must be int64"):
        data.gather_tokens(full, index[:1])
    with pytest.raises(ValueError, match="does not fit"):
        data.scatter_tokens(full, torch.zeros(2, 3, 3), index)
    with pytest.raises(ValueError, match="part is"):
        data.scatter_tokens(full, torch.zeros(2, 2, 3, dtype=torch.float64), index)
    for kept in (0, 6):
        with pytest.raises(ValueError, match="cannot be kept"):
            data.keep_tokens(2, 5, kept, seed=0, step=0, microbatch=0, layer=0)
