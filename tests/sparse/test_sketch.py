"""The lossy method, over real processes: what is sent and kept, and what training makes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import merak.sparse
from tests.backend.harness import Context, RankError, RankPool
from tests.sparse.resuming import save_and_load

ROWS, COLUMNS = 40, 5
ROW_BYTES = COLUMNS * 4


def drawn(rank: int, step: int, layout: torch.layout) -> torch.Tensor:
    """Small integers, so that sums do not depend on their order; an uncoalesced COO tensor, or a dense one."""
    random = torch.Generator().manual_seed(100 * rank + step)
    ids = torch.randint(0, ROWS, (1, 12), generator=random)
    values = torch.randint(-9, 10, (12, COLUMNS), generator=random).float()
    x = torch.sparse_coo_tensor(ids, values, (ROWS, COLUMNS), check_invariants=True)
    return x if layout is torch.sparse_coo else x.to_dense()


def reduced(context: Context, layout: torch.layout, budget: int, steps: int, asynchronously: bool) -> Any:
    codec = merak.sparse.SketchCodec(budget)
    sent, kept = torch.zeros(ROWS, COLUMNS), torch.zeros(ROWS, COLUMNS)
    for step in range(steps):
        x = drawn(context.rank, step, layout)
        if asynchronously:
            work = merak.sparse.all_reduce(x, method="sketch", codec=codec, async_op=True)
            work.wait()
            result = work.result()[0]
        else:
            result = merak.sparse.all_reduce(x, method="sketch", codec=codec)
        assert result.layout is layout
        assert layout is torch.strided or result.is_coalesced()
        sent += result.to_dense()
    assert codec.residual is not None
    kept = codec.residual.to_dense()
    return sent.tolist(), kept.tolist()


@pytest.mark.parametrize("asynchronously", [False, True])
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.strided])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_what_is_sent_and_kept_is_all_there_was(
    pool: RankPool, world_size: int, layout: torch.layout, asynchronously: bool
) -> None:
    parts = pool.run(reduced, layout, 4 * ROW_BYTES + 3, 5, asynchronously, world_size=world_size)
    total = sum(drawn(rank, step, torch.strided) for rank in range(world_size) for step in range(5))
    sent = [torch.tensor(part[0]) for part in parts]
    kept = sum(torch.tensor(part[1]) for part in parts)
    assert torch.equal(sent[0] + kept, total)
    assert all(torch.equal(sent[0], other) for other in sent)
    assert not torch.equal(sent[0], total)


def unbiased(_: Context, calls: int) -> Any:
    x = torch.zeros(ROWS, COLUMNS)
    x[: ROWS // 2] = torch.arange(COLUMNS).float() + 1
    codec = merak.sparse.SketchCodec(8 * ROW_BYTES, seed=17, feedback=False)
    estimates = [merak.sparse.all_reduce(x, method="sketch", codec=codec) for _ in range(calls)]
    assert codec.residual is None
    return torch.stack(estimates)[:, 0].tolist()


def test_without_feedback_it_is_right_on_the_average(pool: RankPool) -> None:
    first_rows = torch.tensor(pool.run(unbiased, 600, world_size=2)[0])
    expected = 2 * (torch.arange(COLUMNS).float() + 1)
    sigma = first_rows.std(0) / 600**0.5
    assert (sigma > 0).all()
    assert ((first_rows.mean(0) - expected).abs() < 3 * sigma).all()


def resumed(context: Context, layout: torch.layout, save_at: int) -> Any:
    codec = merak.sparse.SketchCodec(3 * ROW_BYTES)
    results = []
    for step in range(6):
        results.append(
            merak.sparse.all_reduce(drawn(context.rank, step, layout), method="sketch", codec=codec).to_dense().tolist()
        )
        if step == save_at:
            saved = codec.state_dict()
            assert all(value.layout is torch.strided for value in saved.values())
            codec = merak.sparse.SketchCodec(3 * ROW_BYTES)
            codec.load_state_dict(saved)
    return results


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.strided])
def test_it_goes_on_from_its_saved_state(pool: RankPool, layout: torch.layout) -> None:
    assert pool.run(resumed, layout, -1, world_size=2) == pool.run(resumed, layout, 2, world_size=2)


def used_twice(_: int, x: torch.Tensor) -> None:
    codec = merak.sparse.SketchCodec(100)
    for y in (x, x[:5]):
        merak.sparse.all_reduce(y, method="sketch", codec=codec)


def sketched(x: torch.Tensor, budget_bytes: int = 100, seed: int = 0) -> None:
    merak.sparse.all_reduce(x, method="sketch", codec=merak.sparse.SketchCodec(budget_bytes, seed))


def of_other_sizes(rank: int, x: torch.Tensor) -> None:
    merak.sparse.all_reduce(x.view(-1)[: ROWS * COLUMNS - rank])  # the same number of blocks


def state_of(codec: merak.sparse.SketchCodec, **changed: torch.Tensor) -> None:
    """Refused, and nothing has changed."""
    before = codec.state_dict()
    with pytest.raises(ValueError, match="no state of a SketchCodec"):
        codec.load_state_dict({key: value for key, value in (before | changed).items() if value is not None})
    after = codec.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def bad_states(context: Context) -> None:
    codec = merak.sparse.SketchCodec(2 * ROW_BYTES)
    merak.sparse.all_reduce(drawn(context.rank, 0, torch.sparse_coo), method="sketch", codec=codec)
    indices = codec.state_dict()["residual.indices"]
    state_of(codec, steps=torch.tensor(-1))
    state_of(codec, steps=torch.tensor(1.5))
    state_of(codec, another=torch.ones(1))
    state_of(codec, residual=torch.ones(3))
    state_of(codec, **{"residual.indices": indices.flip(1)})
    state_of(codec, **{"residual.indices": indices + ROWS})
    state_of(codec, **{"residual.indices": indices.float()})
    state_of(codec, **{"residual.values": torch.ones(1, COLUMNS)})
    state_of(codec, **{"residual.values": None})  # type: ignore[arg-type]


def test_bad_states_are_refused(pool: RankPool) -> None:
    pool.run(bad_states, world_size=2)


def states_of_others(context: Context) -> None:
    sketch, top = merak.sparse.SketchState(budget_bytes=100), merak.sparse.TopKState()
    for mine, other in ((sketch, top), (top, sketch)):
        mine.load_state_dict(mine.state_dict())
        with pytest.raises(ValueError, match="this state has rank"):
            mine.load_state_dict(mine.state_dict() | {"rank": torch.tensor(context.rank + 1)})
        with pytest.raises(ValueError, match="this is no state of a"):
            mine.load_state_dict({"x": torch.ones(2)})
        top.residuals[0] = torch.ones(2)
        sketch.codecs[0] = merak.sparse.SketchCodec(10)
        with pytest.raises(ValueError, match="this is no state of a"):
            mine.load_state_dict(other.state_dict())


def test_states_of_others_are_refused(pool: RankPool) -> None:
    pool.run(states_of_others, world_size=2)


def goes_on_after_refusals(context: Context) -> float:
    """One rank's codec refuses: all ranks are told, whatever the other ranks were doing."""
    codec, x = merak.sparse.SketchCodec(100), torch.ones(ROWS, COLUMNS)
    merak.sparse.all_reduce(x, method="sketch", codec=codec)
    with pytest.raises((ValueError, dist.DistBackendError)):
        merak.sparse.all_reduce(x[:5] if context.rank == 1 else x, method="sketch", codec=codec)
    return 0.0


def test_one_rank_that_refuses_tells_the_others(pool: RankPool) -> None:
    pool.run(goes_on_after_refusals, world_size=3)


REFUSED: dict[str, Callable[[int, torch.Tensor], Any]] = {
    "no codec": lambda _, x: merak.sparse.all_reduce(x, method="sketch"),
    "other method": lambda _, x: merak.sparse.all_reduce(x, method="balanced", codec=merak.sparse.SketchCodec(100)),
    "too small": lambda _, x: sketched(x, ROW_BYTES - 1),
    "integers": lambda _, x: sketched(x.int()),
    "halves": lambda _, x: sketched(x.half()),
    "another tensor": used_twice,
    "seeds": lambda rank, x: sketched(x, seed=rank),
    "budgets": lambda rank, x: sketched(x, 100 + 50 * rank),
    "other sizes": of_other_sizes,
    "no tensor": lambda rank, x: merak.sparse.all_reduce(x if rank else None),  # type: ignore[call-overload]
    "stray codec": lambda rank, x: (
        merak.sparse.all_reduce(x) if rank else merak.sparse.all_reduce(x, codec=merak.sparse.SketchCodec(100))
    ),
    "explained": lambda _, x: merak.sparse.explain(x, method="sketch"),
    "one without": lambda rank, x: sketched(x) if rank else merak.sparse.all_reduce(x),
}


def refused(context: Context, case: str) -> str:
    try:
        REFUSED[case](context.rank, torch.ones(ROWS, COLUMNS))
    except (ValueError, TypeError, dist.DistError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing raised"


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("no codec", "needs a codec"),
        ("other method", "a codec is for method='sketch'"),
        ("too small", "larger budget_bytes"),
        ("integers", "float32 or float64"),
        ("halves", "float32 or float64"),
        ("another tensor", "a codec for each tensor"),
        ("seeds", "seed"),
        ("budgets", "codecs made and used alike"),
        ("other sizes", "of other sizes"),
        ("no tensor", "Error"),
        ("stray codec", "Error"),
        ("explained", "exact methods"),
        ("one without", "DistBackendError"),
    ],
)
def test_what_makes_no_sense_is_refused_on_all_ranks(pool: RankPool, case: str, expected: str) -> None:
    for message in pool.run(refused, case, world_size=2):
        assert expected in message


@pytest.mark.parametrize("budget", [0, -5, 1.5, 2**64, True])
def test_budgets_that_make_no_sense_are_refused(budget: Any) -> None:
    with pytest.raises(ValueError, match="budget_bytes"):
        merak.sparse.SketchCodec(budget)


def failing(context: Context) -> None:
    """The operation fails, in its group; its codec goes on in another, from where it was."""
    other = dist.new_group(list(range(context.world_size)))
    codec = merak.sparse.SketchCodec(ROW_BYTES)
    x = torch.eye(ROWS, COLUMNS)
    merak.sparse.all_reduce(x, method="sketch", codec=codec)
    before = codec.residual
    assert before is not None
    before += 1  # a copy
    op = dist.ReduceOp.AVG if context.rank else dist.ReduceOp.SUM
    work = merak.sparse.all_reduce(x, op, method="sketch", codec=codec, async_op=True)
    with pytest.raises(dist.DistError):
        work.wait()
    assert codec.state_dict()["residual"].equal(before - 1)
    merak.sparse.all_reduce(x, group=other, method="sketch", codec=codec)  # type: ignore[arg-type]


def test_a_codec_survives_an_operation_that_fails(pool: RankPool) -> None:
    pool.run(failing, world_size=2)


def no_codec(context: Context) -> str:
    codec: Any = merak.sparse.SketchCodec(ROW_BYTES) if context.rank else 3
    with pytest.raises((ValueError, dist.DistBackendError)) as caught:
        merak.sparse.all_reduce(torch.eye(ROWS, COLUMNS), method="sketch", codec=codec)
    context.store.set(f"rank {context.rank}", "")
    context.store.wait([f"rank {rank}" for rank in range(context.world_size)])  # nobody leaves before all were told
    return f"{type(caught.value).__name__}: {caught.value}"


def test_what_is_no_codec_is_told_to_all(pool: RankPool) -> None:
    here, *others = pool.run(no_codec, world_size=3)
    assert "an argument is of a wrong type" in here
    for text in others:
        assert "rank 0 refused the arguments" in text


def explaining(context: Context) -> str:
    x = torch.eye(ROWS, COLUMNS)
    merak.sparse.calibrate()
    with pytest.raises(dist.DistBackendError) as caught:
        _ = merak.sparse.all_reduce(x) if context.rank else merak.sparse.explain(x)
    return str(caught.value)


def test_explain_beside_all_reduce_is_refused(pool: RankPool) -> None:
    for text in pool.run(explaining, world_size=3):
        assert "rank 0 calls explain(), rank " in text


def regression(context: Context, state: merak.sparse.SketchState | None, steps: int, save_at: int = -1) -> Any:
    """Rows of a table that are to become given ones: a convex problem with sparse gradients."""
    torch.manual_seed(0)
    table = torch.nn.Embedding(ROWS, COLUMNS, sparse=True, dtype=torch.float64)
    truth = torch.randn(ROWS, COLUMNS, dtype=torch.float64)
    ddp = DistributedDataParallel(table)
    if state is not None:
        ddp.register_comm_hook(state, merak.sparse.sketch_hook)
    random = torch.Generator().manual_seed(context.rank)
    optimizer = torch.optim.SGD(table.parameters(), lr=0.2)
    for step in range(steps):
        # Frequent rows and rare ones.
        ids = (torch.rand(16, generator=random) ** 3 * ROWS).long()
        optimizer.zero_grad()
        (ddp(ids) - truth[ids]).pow(2).sum(1).mean().backward()
        optimizer.step()
        if step == save_at and state is not None:
            save_and_load(state)
    return (table.weight - truth).pow(2).sum(1).mean().item(), table.weight.flatten().tolist()


def test_feedback_reaches_the_loss_of_exact_sums(pool: RankPool) -> None:
    budget = 3 * COLUMNS * 8  # of about 18 rows that the two ranks have in a step
    exact = pool.run(regression, None, 1500, world_size=2)
    sketched = pool.run(regression, merak.sparse.SketchState(budget_bytes=budget), 1500, world_size=2)
    noisy = pool.run(regression, merak.sparse.SketchState(budget_bytes=budget, feedback=False), 1500, world_size=2)
    assert sketched[0][1] == sketched[1][1]
    assert exact[0][0] < 1e-3
    assert sketched[0][0] < 1e-3
    assert noisy[0][0] > sketched[0][0]


def test_the_hook_goes_on_from_its_saved_state(pool: RankPool) -> None:
    through = pool.run(regression, merak.sparse.SketchState(budget_bytes=200), 12, world_size=2)
    again = pool.run(regression, merak.sparse.SketchState(budget_bytes=200), 12, 6, world_size=2)
    assert through[0][1] == again[0][1]


def half_training(_: Context) -> Any:
    table = torch.nn.Embedding(4, 2, sparse=True, dtype=torch.bfloat16)
    ddp = DistributedDataParallel(table)
    ddp.register_comm_hook(merak.sparse.SketchState(budget_bytes=1000), merak.sparse.sketch_hook)
    for _ in range(3):
        table.zero_grad()
        ddp(torch.tensor([1, 1])).sum().backward()
    assert table.weight.grad is not None
    return str(table.weight.grad.dtype), table.weight.grad.to_dense().tolist()


def test_the_hook_takes_16_bit_gradients(pool: RankPool) -> None:
    assert pool.run(half_training, world_size=2)[0] == ("torch.bfloat16", [[0, 0], [2, 2], [0, 0], [0, 0]])


class TwoTables(torch.nn.Module):
    """Two tables with sparse gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.large = torch.nn.Embedding(30, 4, sparse=True)
        self.small = torch.nn.Embedding(20, 2, sparse=True)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.large(ids).sum() + self.small(ids).sum()


def rows_sent(_: Context, missing: bool) -> Any:
    model = TwoTables()
    ddp = DistributedDataParallel(model)
    budgets = {model.large.weight: 3 * 4 * 4, model.small.weight: 5 * 2 * 4}
    if missing:
        del budgets[model.small.weight]
    ddp.register_comm_hook(merak.sparse.SketchState(budget_bytes=budgets), merak.sparse.sketch_hook)
    for _ in range(3):
        model.zero_grad()
        ddp(torch.arange(12)).backward()
    assert model.large.weight.grad is not None
    assert model.small.weight.grad is not None
    return [table.weight.grad.coalesce().indices().size(1) for table in (model.large, model.small)]


def test_each_table_may_have_a_budget(pool: RankPool) -> None:
    assert pool.run(rows_sent, False, world_size=2) == [[3, 5], [3, 5]]


def test_a_table_without_a_budget_is_refused(pool: RankPool) -> None:
    with pytest.raises(RankError, match="no budget for the parameter of shape"):
        pool.run(rows_sent, True, world_size=2)
