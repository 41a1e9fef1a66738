"""Ways to train a model with embedding tables on several ranks, each with its own batches. All do the same arithmetic:
gradients are averaged over the ranks, tables are trained by Adagrad, the other layers by Adam.

What differs is where tables are and how their gradients travel. The other layers are DistributedDataParallel's in all.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.parallel import DistributedDataParallel

import merak.embedding
import merak.sparse

from .models import Batch, Task

Groups = dict[str, dist.ProcessGroup]
"""By backend, "merak" and "gloo"."""

TABLE_OPTIONS = {"lr": 0.1, "initial_accumulator_value": 0.1}
LAYER_OPTIONS = {"lr": 1e-3}
BUCKET_MB = 1  # of all ways: the models are small, and with DDP's 25 no gradient would leave before the last is there


class Training:
    """A task, trained over a group by DDP. Made with the model in its final form: after tables are replaced.

    Args:
        tables: names of the tables.
        adagrad: the optimizer of tables.
    """

    def __init__(
        self, task: Task, tables: Iterable[str], group: dist.ProcessGroup, adagrad: type[torch.optim.Optimizer]
    ) -> None:
        self.task, self.group = task, group
        self.ddp = DistributedDataParallel(
            task.model, process_group=group, gradient_as_bucket_view=True, bucket_cap_mb=BUCKET_MB
        )
        names = {f"{table}.weight" for table in tables}
        parameters = list(task.model.named_parameters())
        self.tables = [parameter for name, parameter in parameters if name in names]
        layers = [parameter for name, parameter in parameters if name not in names]
        self.table_optimizer = adagrad(self.tables, **TABLE_OPTIONS)  # type: ignore[arg-type]
        self.optimizers: list[Any] = [self.table_optimizer, torch.optim.Adam(layers, **LAYER_OPTIONS)]

    def train(self, batches: Iterable[Batch]) -> Iterator[torch.Tensor]:
        """This rank's loss of each batch, after the step that it is for."""
        for batch in batches:
            loss = self.ddp(batch)
            loss.backward()
            self.finish()
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad()
            yield loss.detach()

    def finish(self) -> None:
        """What there is to do between the backward pass and the optimizers."""


class AllToAll(Training):
    """Tables split over the ranks: merak.embedding, and its optimizer."""

    def __init__(self, task: Task, groups: Groups) -> None:
        group = groups["merak"]
        tables = merak.embedding.shard(task.model, DeviceMesh.from_group(group, "cpu"))
        super().__init__(task, tables, group, merak.embedding.Adagrad)


class Ahead(AllToAll):
    """The same, rows looked up ahead of the forward pass, gradients in two parts; and, with `layerwise`, steps of the
    other layers taken as the next forward pass comes to them. `options`: of LookAhead."""

    def __init__(self, task: Task, groups: Groups, layerwise: bool = True, **options: Any) -> None:
        super().__init__(task, groups)
        self.options = options
        if layerwise:
            self.optimizers[1] = merak.embedding.LayerwiseOptimizer(self.ddp, self.optimizers[1])

    def train(self, batches: Iterable[Batch]) -> Iterator[torch.Tensor]:
        modules = {name: self.task.model.get_submodule(name) for name in self.task.ids(next(iter(batches)))}

        def ids(batch: Batch) -> dict[merak.embedding.ShardedEmbedding, torch.Tensor]:
            return {modules[name]: of_table for name, of_table in self.task.ids(batch).items()}  # type: ignore[misc]

        optimizer = self.table_optimizer
        assert isinstance(optimizer, merak.embedding.Adagrad)
        return super().train(merak.embedding.LookAhead(batches, ids, optimizer, **self.options))


class ExactSparse(Training):
    """Each rank has all tables; their sparse gradients are reduced by merak.sparse."""

    def __init__(self, task: Task, groups: Groups) -> None:
        group = groups["merak"]
        super().__init__(task, with_gradients(task, sparse=True), group, torch.optim.Adagrad)
        self.ddp.register_comm_hook(merak.sparse.HookState(group), merak.sparse.exact_hook)


class Gathering(NamedTuple):
    """The gradients of a table, of all tokens of all ranks, on their way."""

    table: torch.Tensor
    ids: torch.Tensor
    values: torch.Tensor
    works: list[dist.Work | None]


class AllGather(Training):
    """As Horovod does: every rank gathers the gradients of all tokens, over Gloo, beside the rest of the backward
    pass."""

    def __init__(self, task: Task, groups: Groups) -> None:
        tables = with_gradients(task, sparse=True)
        ignored = [f"{table}.weight" for table in tables]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(task.model, ignored)
        super().__init__(task, tables, groups["gloo"], torch.optim.Adagrad)
        self.gathering: list[Gathering] = []
        for table in self.tables:
            table.register_post_accumulate_grad_hook(self._start)

    def _start(self, table: torch.Tensor) -> None:
        assert table.grad is not None
        ids, values = table.grad._indices()[0], table.grad._values()
        size = self.group.size()
        all_ids, all_values = ids.new_empty(size * len(ids)), values.new_empty(size * len(values), values.size(1))
        pairs = ((all_ids, ids), (all_values, values))
        works = [dist.all_gather_into_tensor(*pair, group=self.group, async_op=True) for pair in pairs]
        self.gathering.append(Gathering(table, all_ids, all_values, works))

    def finish(self) -> None:
        for table, ids, values, works in self.gathering:
            for work in works:
                assert work is not None
                work.wait()
            values /= self.group.size()
            table.grad = torch.sparse_coo_tensor(ids[None], values, table.shape, check_invariants=False)
        self.gathering.clear()


class Gloo(Training):
    """Each rank has all tables; DDP over Gloo reduces their gradients, sparse or dense."""

    def __init__(self, sparse: bool, task: Task, groups: Groups) -> None:
        super().__init__(task, with_gradients(task, sparse), groups["gloo"], torch.optim.Adagrad)


def with_gradients(task: Task, sparse: bool) -> list[str]:
    """The names of the tables, which have sparse, or dense, gradients from now on."""
    tables = task.tables()
    for table in tables.values():
        table.sparse = sparse
    return list(tables)


WAYS: dict[str, Callable[[Task, Groups], Training]] = {
    "2d": Ahead,
    "vertical": functools.partial(Ahead, layerwise=False),
    "horizontal": functools.partial(Ahead, split=False),
    "alltoall": AllToAll,
    "exact sparse": ExactSparse,
    "all-gather": AllGather,
    "gloo sparse": lambda *arguments: Gloo(True, *arguments),
    "gloo dense": lambda *arguments: Gloo(False, *arguments),
}

BASELINES = ("exact sparse", "all-gather", "gloo sparse", "gloo dense")
"""In which each rank has all tables."""
