"""A data loader whose state is that of the last batch it gave, whatever its workers have fetched ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from torch.utils.data import DataLoader, Dataset, default_collate

from merak.data.sampler import Batch, BatchState, CurriculumSampler

Transform = Callable[[Any, int], Any]


class CurriculumLoader:
    """Iterates over the batches of a sampler.

        loader = CurriculumLoader(dataset, sampler, transform=TruncateLength(pacing), num_workers=4)
        for batch in loader:
            ...
            checkpoint = {"loader": loader.state_dict(), ...}

    `state_dict()` says which batch comes after the last one that the loop was given, and `state` describes that one:
    both travel with the batch, so that they hold although workers fetch others ahead. A loader iterated again goes on
    behind that batch.

    Args:
        dataset: map-style, anything with `__getitem__` of a sample's number (or `__getitems__` of a list of them).
        sampler: which samples.
        collate_fn: makes a batch of a list of samples; torch's own by default.
        transform: of a collated batch and its step, such as `TruncateLength`; runs in the workers.
        options: others of `torch.utils.data.DataLoader`: `num_workers`, `pin_memory`, `prefetch_factor`, ...
    """

    def __init__(
        self,
        dataset: Any,
        sampler: CurriculumSampler,
        *,
        collate_fn: Callable[[list[Any]], Any] = default_collate,
        transform: Transform | None = None,
        **options: Any,
    ) -> None:
        if len(dataset) != sampler.samples:
            raise ValueError(
                f"the data set has {len(dataset)} samples, the sampler {sampler.samples}: its metrics are of another"
            )
        self.sampler = sampler
        self.state: BatchState | None = None
        self._next = sampler.step
        self._loader: DataLoader[Any] = DataLoader(
            cast("Dataset[Any]", _WithState(dataset)),
            batch_sampler=sampler,
            collate_fn=cast("Any", _Collate(collate_fn, transform)),
            **options,
        )

    def __iter__(self) -> Iterator[Any]:
        self.sampler.step = self._next
        for state, batch in self._loader:
            self.state, self._next = state, state.step + 1
            yield batch

    def __len__(self) -> int:
        self.sampler.step = self._next
        return len(self.sampler)

    def state_dict(self) -> dict[str, int]:
        """As the sampler's: what comes after the last batch that was given."""
        return {**self.sampler.state_dict(), "step": self._next}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """The next loop goes on from there. Raises ValueError as the sampler's does."""
        self.sampler.load_state_dict(state)
        self._next, self.state = self.sampler.step, None


class _WithState:
    """A data set that gives a batch's samples together with its state."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, sample: int) -> Any:
        return self.dataset[sample]

    def __getitems__(self, batch: Batch) -> tuple[BatchState, Sequence[Any]]:
        if hasattr(self.dataset, "__getitems__"):
            return batch.state, self.dataset.__getitems__(list(batch))
        return batch.state, [self.dataset[sample] for sample in batch]


class _Collate:
    def __init__(self, collate: Callable[[list[Any]], Any], transform: Transform | None) -> None:
        self.collate, self.transform = collate, transform

    def __call__(self, fetched: tuple[BatchState, list[Any]]) -> tuple[BatchState, Any]:
        state, samples = fetched
        batch = self.collate(samples)
        return state, batch if self.transform is None else self.transform(batch, state.step)
