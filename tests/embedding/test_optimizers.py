"""Optimizers of rows beside those of torch.optim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import merak.embedding

ROWS, COLUMNS = 30, 9

Make = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]

PAIRS: dict[str, tuple[Make, Make]] = {
    "SGD": (lambda p: merak.embedding.SGD(p, 0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "Adagrad": (
        lambda p: merak.embedding.Adagrad(p, 0.1, lr_decay=0.1, initial_accumulator_value=0.3),
        lambda p: torch.optim.Adagrad(p, 0.1, lr_decay=0.1, initial_accumulator_value=0.3),
    ),
    "SparseAdam": (
        lambda p: merak.embedding.AdamW(p, 0.01, (0.8, 0.99), weight_decay=0.0),
        lambda p: torch.optim.SparseAdam(p, 0.01, (0.8, 0.99)),
    ),
}


def gradient(step: int, dtype: torch.dtype, rows: int | None = None) -> torch.Tensor:
    """Uncoalesced; of all rows with `rows`."""
    random = torch.Generator().manual_seed(step)
    ids = torch.arange(ROWS) if rows else torch.randint(0, ROWS, (step % 4 * 5,), generator=random)
    values = torch.randn(len(ids), COLUMNS, generator=random, dtype=torch.float64).to(dtype)
    return torch.sparse_coo_tensor(ids[None], values, (ROWS, COLUMNS), check_invariants=True)


def table(dtype: torch.dtype) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(9)).to(dtype))


@pytest.mark.parametrize("name", PAIRS)
def test_rows_change_as_torch_changes_them(name: str) -> None:
    tables = [table(torch.float64), table(torch.float64)]
    optimizers = [make([one]) for make, one in zip(PAIRS[name], tables, strict=True)]
    for step in range(1, 20):
        for one, optimizer in zip(tables, optimizers, strict=True):
            one.grad = gradient(step, torch.float64)
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(tables[0], tables[1], rtol=0, atol=1e-12)


DENSE_PAIRS: dict[str, tuple[Make, Make]] = {
    "momentum": (lambda p: merak.embedding.SGD(p, 0.01, 0.9), lambda p: torch.optim.SGD(p, 0.01, 0.9)),
    "Adam": (  # epsilon is added elsewhere: it is nothing here
        lambda p: merak.embedding.AdamW(p, 0.01, eps=1e-30, weight_decay=0.0),
        lambda p: torch.optim.AdamW(p, 0.01, eps=1e-30, weight_decay=0.0),
    ),
    "AdamW": (
        lambda p: merak.embedding.AdamW(p, 0.01, eps=1e-30, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, 0.01, eps=1e-30, weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("name", DENSE_PAIRS)
def test_all_rows_change_as_those_of_dense_gradients(name: str) -> None:
    ours, theirs = table(torch.float64), table(torch.float64)
    make_ours, make_theirs = DENSE_PAIRS[name]
    mine, others = make_ours([ours]), make_theirs([theirs])
    for step in range(1, 20):
        ours.grad = gradient(step, torch.float64, ROWS)
        theirs.grad = ours.grad.to_dense()
        mine.step()
        others.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_row_wise_adagrad_does_what_its_formula_says() -> None:
    ours = table(torch.float64)
    optimizer = merak.embedding.RowWiseAdagrad([ours], 0.1, initial_accumulator_value=0.2, eps=1e-3)
    expected, sums = ours.detach().clone(), torch.full((ROWS,), 0.2, dtype=torch.float64)
    for step in range(1, 20):
        ours.grad = gradient(step, torch.float64)
        optimizer.step()
        dense = ours.grad.to_dense()
        for row in range(ROWS):
            sums[row] += dense[row].square().mean()
            expected[row] -= 0.1 * dense[row] / (sums[row].sqrt() + 1e-3)
    torch.testing.assert_close(ours.detach(), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(optimizer.state[ours]["sum"], sums, rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [merak.embedding.Adagrad, merak.embedding.RowWiseAdagrad])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_tables_of_fewer_bits(dtype: torch.dtype, make: Callable[..., torch.optim.Optimizer]) -> None:
    ours, exact = table(dtype), torch.nn.Parameter(table(dtype).detach().double())
    mine, others = make([ours], 0.1), make([exact], 0.1)
    for step in range(1, 9):
        ours.grad = gradient(step, dtype).coalesce()
        exact.grad = ours.grad.double()
        mine.step()
        others.step()
    assert mine.state[ours]["sum"].dtype is torch.float32
    torch.testing.assert_close(ours.double(), exact, rtol=0, atol=0.1 if dtype is not torch.float32 else 1e-5)


@pytest.mark.parametrize("make", [merak.embedding.AdamW, merak.embedding.RowWiseAdagrad])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_states_are_saved_and_loaded(dtype: torch.dtype, make: Callable[..., torch.optim.Optimizer]) -> None:
    whole, resumed = table(dtype), table(dtype)
    first, second = make([whole]), make([resumed])
    for step in range(1, 9):
        if step == 5:
            saved = second.state_dict()
            second = make([resumed])
            second.load_state_dict(saved)
        for one, optimizer in ((whole, first), (resumed, second)):
            one.grad = gradient(step, dtype)
            optimizer.step()
    assert torch.equal(whole, resumed)


def test_what_does_not_fit_is_refused() -> None:
    one = table(torch.float32)
    optimizer = merak.embedding.SGD([one], 0.1)
    one.grad = torch.ones(ROWS, COLUMNS)
    with pytest.raises(ValueError, match="the gradient of a table is dense"):
        optimizer.step()
    wide = torch.nn.Parameter(torch.zeros(COLUMNS, ROWS).t())
    wide.grad = gradient(1, torch.float32)
    with pytest.raises(ValueError, match="contiguous, on CPU"):
        merak.embedding.SGD([wide], 0.1).step()
    arguments: list[dict[str, Any]] = [{"lr": -1}, {"lr": 0.1, "momentum": 1.0}]
    for wrong in arguments:
        with pytest.raises(ValueError, match="it must"):
            merak.embedding.SGD([one], **wrong)
