"""Which rows of a data set a replica gets.

A *global batch* is what all replicas are given together: the next `rows * replicas` items in the order of the sampler,
which is the same on all ranks. Replica r gets the r-th of equal slices of it, so ranks of one replica get the same. Of
the last global batch, which may be smaller, slices differ by one item at most; nothing is repeated to make them even.
Where it has fewer items than there are replicas, each replica gets all of it, so that nobody is without a batch: every
step is collective. Means over the global batch are the same then; where a step has other batches as well, whose rows
would count less, `only_mine` takes the others' rows away again. Data sets without a length cannot tell when that is:
they repeat items until there is one for each replica.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Sampler

from merak.pipeline.microbatches import rows_of, split

_KEPT = (
    "num_workers",
    "collate_fn",
    "pin_memory",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "prefetch_factor",
    "persistent_workers",
    "in_order",
)


def share(items: Sequence[Any], replica: int, replicas: int) -> Sequence[Any]:
    """A replica's part of a global batch."""
    if len(items) < replicas:
        return items
    begin, end = (len(items) * index // replicas for index in (replica, replica + 1))
    return items[begin:end]


def only_mine(batch: Mapping[str, Any], replica: int) -> dict[str, Any] | None:
    """The row of a replica of a batch that all replicas have, and that has fewer rows than there are replicas."""
    rows = rows_of(batch)
    return split(dict(batch), rows)[replica] if replica < rows else None


class ReplicaBatches(BatchSampler):
    """A replica's parts of the batches of another sampler. `accelerate` knows it by the names of its own one.

    Args:
        whole: gives global batches.
        seed: of the sampler's random order, together with the epoch, where it has none of its own.
    """

    split_batches = True

    def __init__(self, whole: BatchSampler, replica: int, replicas: int, seed: int) -> None:
        self.batch_sampler, self.batch_size, self.drop_last = whole, whole.batch_size, whole.drop_last
        self._replica, self._replicas, self._seed = replica, replicas, seed
        self.set_epoch(0)

    @property
    def sampler(self) -> Any:
        """What the order of items comes from."""
        return self.batch_sampler.sampler

    @sampler.setter
    def sampler(self, sampler: Any) -> None:
        self.batch_sampler.sampler = sampler

    def set_epoch(self, epoch: int) -> None:
        """Before an epoch: its order."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)
        elif hasattr(self.sampler, "generator"):
            self.sampler.generator = torch.Generator().manual_seed(self._seed + epoch)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batch_sampler:
            yield list(share(batch, self._replica, self._replicas))

    def __len__(self) -> int:
        return len(self.batch_sampler)


class ReplicaItems(IterableDataset[Any]):
    """A replica's items of a data set that has an order and no length."""

    def __init__(self, whole: IterableDataset[Any], rows: int, replica: int, replicas: int, drop_last: bool) -> None:
        self.whole, self._rows, self._drop_last = whole, rows, drop_last
        self._replica, self._replicas = replica, replicas

    def set_epoch(self, epoch: int) -> None:
        """Before an epoch: its order, if the data set has several."""
        if hasattr(self.whole, "set_epoch"):
            self.whole.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        items = iter(self.whole)
        while batch := list(itertools.islice(items, self._rows * self._replicas)):
            if len(batch) == self._rows * self._replicas or not self._drop_last:
                batch = list(itertools.islice(itertools.cycle(batch), max(len(batch), self._replicas)))
                yield from share(batch, self._replica, self._replicas)


def loader_of_replica(loader: DataLoader[Any], replica: int, replicas: int, seed: int) -> DataLoader[Any]:
    """A loader of a replica's batches, as large as those of a loader of the whole data set."""
    kept = {name: getattr(loader, name) for name in _KEPT}
    rows, last = loader.batch_size or 1, loader.drop_last
    if isinstance(loader.dataset, IterableDataset):
        items = ReplicaItems(loader.dataset, rows, replica, replicas, last)
        return DataLoader(items, batch_size=rows, drop_last=last, **kept)
    sampler: Sampler[int] = loader.sampler  # type: ignore[assignment]
    batches = ReplicaBatches(BatchSampler(sampler, rows * replicas, last), replica, replicas, seed)
    return DataLoader(loader.dataset, batch_sampler=batches, **kept)


def example_of(loader: Any, rows: int) -> Any:
    """A batch of the data set's first rows, the same on every rank; the loader stays where it is."""
    data = loader.dataset
    if isinstance(data, ReplicaItems):
        return loader.collate_fn(list(itertools.islice(iter(data.whole), rows)))
    return loader.collate_fn([data[index] for index in range(min(rows, len(data)))])
