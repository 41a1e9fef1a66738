"""How a step is computed: data parallel, by DistributedDataParallel with the hook that `--reduce` names; the tables
replicated with the rest, or split over the ranks (`--embedding`)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from torch.nn.parallel import DistributedDataParallel

import merak.embedding

from .model import EmbeddingModel, State
from .optimizers import Optimizers
from .reductions import REDUCTIONS, TimedHook

if TYPE_CHECKING:
    from common.world import World

    from .negatives import Negatives
    from .options import Options
    from .streams import Window


class Engine:
    """A model on every rank. Each rank passes its share of the window; losses are of the whole. `budgets`: the bytes
    that the tables' gradients may take where that has to be said.

    Attributes:
        parameters: the numbers that are trained.
        waited: the seconds that this rank's backward passes were longer for communication: from when the last
            gradients were handed over to the end of the pass. That includes waiting for ranks that are late.
        seconds, bytes_sent: of the training steps alone; bytes where the backend counts them.
    """

    def __init__(self, options: Options, vocabulary: int, world: World, budgets: tuple[int, int]) -> None:
        reduction = REDUCTIONS[options.reduce]
        torch.manual_seed(options.seed)
        self._plain = EmbeddingModel(vocabulary, options.width, options.hidden, reduction.sparse)
        self.parameters = sum(parameter.numel() for parameter in self._plain.parameters())
        if options.embedding == "alltoall":
            merak.embedding.shard(self._plain, sparse=reduction.sparse)
        self._model = DistributedDataParallel(self._plain, gradient_as_bucket_view=True)
        self._hook = TimedHook(reduction.hook)
        self._hook.register(self._model, reduction.state(dict(zip(self._plain.tables(), budgets, strict=True))))
        self._optimizers = Optimizers(self._plain, options)
        self._world = world
        self._state: State | None = None
        self.waited, self.seconds, self.bytes_sent = 0.0, 0.0, 0

    def train_step(self, window: Window, negatives: Negatives) -> float:
        """Learns from the window that follows the one before; its mean loss over all ranks, before that."""
        begin, sent = time.perf_counter(), self._world.bytes_sent() or 0
        self._optimizers.zero_grad()
        loss, state = self._model(window, negatives, self._state)
        loss.backward()
        self.waited += self._hook.waited()
        self._optimizers.step()
        self._state = (state[0].detach(), state[1].detach())
        mean = self._world.mean(loss.item())
        self.seconds += time.perf_counter() - begin
        self.bytes_sent += (self._world.bytes_sent() or 0) - sent
        return mean

    @torch.no_grad()
    def validate(self, windows: list[Window]) -> float:
        """The mean loss of consecutive windows by full softmax, over all ranks; nothing is learnt."""
        total, state, classes = 0.0, None, self._plain.class_table()
        for window in windows:
            loss, state = self._plain.full_loss(window, state, classes)
            total += loss.item()
        return self._world.mean(total / len(windows))
