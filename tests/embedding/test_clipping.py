"""clip_grad_norm_ beside that of torch, in one process with the global batch."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

import merak.embedding
from tests.backend.harness import Context, RankPool

ROWS, COLUMNS = 30, 7


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Embedding(ROWS, COLUMNS, dtype=torch.float64)
        self.second = torch.nn.Embedding(ROWS, 2, dtype=torch.float64)
        self.unused = torch.nn.Embedding(ROWS, 3, dtype=torch.float64)
        self.head = torch.nn.Linear(COLUMNS + 2, 3, dtype=torch.float64)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = self.head(torch.cat([self.first(ids), self.second(ids)], -1))
        return rows


def ids_of(rank: int) -> torch.Tensor:
    return torch.randint(0, ROWS, (6,), generator=torch.Generator().manual_seed(rank))


def loss_of(rows: torch.Tensor) -> torch.Tensor:
    return 5 * rows.square().sum()


Clipped = tuple[torch.Tensor, list[torch.Tensor]]


def on_ranks(context: Context, split: str, max_norm: float, norm_type: float, sparse: bool) -> Clipped:
    torch.manual_seed(1)
    model = Model()
    if split == "columns":
        merak.embedding.shard(model, sparse=sparse)
    else:
        hot = {"first": ids_of(0), "second": torch.tensor([3])} if split == "hot rows" else None
        merak.embedding.shard(model, sparse=sparse, split="rows", hot=hot)
    ddp = DistributedDataParallel(model)
    loss_of(ddp(ids_of(context.rank))).backward()
    norm = merak.embedding.clip_grad_norm_(model.parameters(), max_norm, norm_type)
    gradients: list[torch.Tensor] = []
    for table in (model.first, model.second):
        assert isinstance(table, merak.embedding.ShardedEmbedding)
        assert table.weight.grad is not None
        gradients.append(table.whole(table.weight.grad.to_dense()).full_tensor())
    assert model.head.weight.grad is not None
    return norm, [*gradients, model.head.weight.grad]


def in_one_process(size: int, max_norm: float, norm_type: float) -> Clipped:
    torch.manual_seed(1)
    model = Model()
    torch.stack([loss_of(model(ids_of(rank))) for rank in range(size)]).mean().backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm, norm_type)
    gradients = [module.weight.grad for module in (model.first, model.second, model.head)]
    return norm, [gradient for gradient in gradients if gradient is not None]


@pytest.mark.parametrize("split", ["columns", "rows", "hot rows"])
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.5, math.inf])
@pytest.mark.parametrize(("size", "max_norm"), [(1, 0.5), (2, 0.5), (3, 1e9), (4, 0.5)])
def test_gradients_are_those_of_one_process(
    pool: RankPool, split: str, size: int, max_norm: float, norm_type: float, sparse: bool
) -> None:
    expected, gradients = in_one_process(size, max_norm, norm_type)
    assert (expected > max_norm) == (max_norm == 0.5)  # else nothing would be clipped
    results = pool.run(on_ranks, split, max_norm, norm_type, sparse, world_size=size)
    for norm, found in results:
        assert torch.equal(norm, results[0][0])
        torch.testing.assert_close(norm, expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(found, gradients, rtol=0, atol=1e-12)


def not_finite(context: Context) -> None:
    """In one column of one rank; all ranks see it."""
    table = merak.embedding.ShardedEmbedding(ROWS, 4)
    layer = torch.nn.Linear(2, 2)
    for parameter in (table.weight, layer.weight):
        parameter.grad = torch.ones_like(parameter)
    assert table.weight.grad is not None
    table.weight.grad[3, 0] = math.inf if context.rank == 1 else 1.0
    parameters = [table.weight, *layer.parameters()]
    with pytest.raises(RuntimeError, match="the norm of the gradients is inf"):
        merak.embedding.clip_grad_norm_(parameters, 1.0, error_if_nonfinite=True)
    assert merak.embedding.clip_grad_norm_(parameters, 1.0) == math.inf
    assert layer.weight.grad is not None
    assert torch.equal(layer.weight.grad, torch.zeros(2, 2))


def test_what_is_not_finite_is_told_to_all(pool: RankPool) -> None:
    pool.run(not_finite)


def split_layers(context: Context) -> None:
    """Parameters that are DTensors already, as FSDP2 makes them, count whole and once, beside a table."""
    table = merak.embedding.ShardedEmbedding(3, 3)
    table.weight.grad = torch.full_like(table.weight, 2)
    layer = torch.nn.Parameter(distribute_tensor(torch.zeros(5, 2), table.mesh, [Shard(0)]))
    layer.grad = distribute_tensor(torch.ones(5, 2), table.mesh, [Shard(0)])
    norm = merak.embedding.clip_grad_norm_([table.weight, layer], 1.0)
    assert norm.item() == pytest.approx(math.sqrt(9 * 4 + 10))
    assert isinstance(layer.grad, DTensor)
    torch.testing.assert_close(layer.grad.full_tensor(), torch.full((5, 2), 1 / math.sqrt(46)))
    torch.testing.assert_close(table.weight.grad, torch.full_like(table.weight, 2 / math.sqrt(46)))


def test_layers_that_are_split_count_whole(pool: RankPool) -> None:
    pool.run(split_layers, world_size=2)


def test_gradients_without_tables() -> None:
    """No group is needed; elements of sparse gradients that stand twice count added up; norms of 16 bits are wide."""
    parameter = torch.nn.Parameter(torch.zeros(3, 2, dtype=torch.float16))
    ids = torch.tensor([[1, 1]])
    parameter.grad = torch.sparse_coo_tensor(ids, torch.full((2, 2), 3e4).half(), (3, 2), check_invariants=True)
    norm = merak.embedding.clip_grad_norm_(parameter, 1.0)
    assert norm.item() == pytest.approx(6e4 * math.sqrt(2), rel=1e-3)  # more than float16 can say
    assert parameter.grad.to_dense()[1].tolist() == pytest.approx([math.sqrt(0.5)] * 2, rel=1e-3)
    assert merak.embedding.clip_grad_norm_([], 1.0) == 0
    with pytest.raises(ValueError, match="norm_type is 0; it must be above 0"):
        merak.embedding.clip_grad_norm_(parameter, 1.0, 0)


def clip_by_torch(context: Context, split: str) -> None:
    """It would see a part, and multiply by another factor on each rank."""
    model = Model()
    merak.embedding.shard(model, sparse=False, split=split)
    for _ in range(2):  # passes, whose gradients are added up
        loss_of(model(ids_of(context.rank))).backward()
        for foreach in (None, True, False):
            with pytest.raises(RuntimeError, match=r"clip by merak\.embedding\.clip_grad_norm_ .* max_grad_norm=0"):
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=foreach)
    gradient = model.first.weight.grad
    assert gradient is not None
    copied = copy.deepcopy(gradient)
    assert copied is not gradient
    assert torch.equal(copied, gradient)
    assert type(gradient * 2) is torch.Tensor
    assert gradient.norm() >= 0


@pytest.mark.parametrize("split", ["columns", "rows"])
def test_torch_cannot_clip_a_part(pool: RankPool, split: str) -> None:
    pool.run(clip_by_torch, split)


def clip_alone(_: Context) -> None:
    model = Model()
    merak.embedding.shard(model, sparse=False)
    loss_of(model(ids_of(0))).backward()
    assert torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9) > 0


def test_torch_can_where_there_is_one_rank(pool: RankPool) -> None:
    pool.run(clip_alone, world_size=1)
