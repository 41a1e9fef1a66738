"""Lossy codecs beside each other in the same number of cells: what does each make of training?

    python benchmarks/sparse/codecs.py [--cells 0.25] [--table-optimizer sgd] [--seeds 0 1 2] [--output FILE]

Trains the model of examples/train_embedding_model.py in one process; the gradient of each table passes through a codec
with as many cells, each as wide as a row, as `--cells` times its rows in that step. Nothing crosses a network, so this
is about losses alone. The codecs:

    exact           none
    count sketch    S2 Reducer's: rows share cells, with random signs; what is read is right on the average
    top-k unsketch  FetchSGD's: three cells a row, of which the median is read; the tenth as many rows as cells with the
                    largest estimates are taken, the rest stays in the sketch
    no feedback     merak.sparse.SketchCodec(feedback=False): the heaviest rows alone, the others share cells
    feedback        merak.sparse.SketchCodec: the heaviest rows, the others wait
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

import merak.sparse

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

from common.seeds import mix
from embedding_model.model import EmbeddingModel, State
from embedding_model.negatives import LogUniform
from embedding_model.optimizers import TABLE_RATES, Optimizers
from embedding_model.options import Options
from embedding_model.streams import Streams
from train_embedding_model import Data, read_data

Codec = Callable[[torch.Tensor], torch.Tensor]
"""From a table's gradient, a coalesced COO tensor, to what is made of it."""


def exact(_: float, __: int) -> Codec:
    return lambda gradient: gradient


def cells_for(gradient: torch.Tensor, share: float) -> int:
    return max(3, int(share * gradient.indices().size(1)))


def with_values(gradient: torch.Tensor, rows: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return torch.sparse_coo_tensor(rows[None], values, gradient.shape, is_coalesced=True)


def count_sketch(share: float, seed: int) -> Codec:
    random = torch.Generator().manual_seed(seed)

    def reduce(gradient: torch.Tensor) -> torch.Tensor:
        rows, values, cells = gradient.indices()[0], gradient.values(), cells_for(gradient, share)
        cell = torch.randint(cells, (len(rows),), generator=random)
        sign = torch.randint(2, (len(rows), 1), generator=random) * 2.0 - 1
        sketch = torch.zeros(cells, values.size(1)).index_add_(0, cell, sign * values)
        return with_values(gradient, rows, sign * sketch[cell])

    return reduce


class Unsketch:
    """What is not taken stays in the sketch, so hashes and size are those of the first step."""

    def __init__(self, share: float, seed: int) -> None:
        self.share, self.seed = share, seed
        self.sketch: torch.Tensor | None = None

    def __call__(self, gradient: torch.Tensor) -> torch.Tensor:
        if self.sketch is None:
            self.begin(gradient)
        assert self.sketch is not None
        rows = gradient.indices()[0]
        self.seen[rows] = True
        self.add(rows, gradient.values())
        candidates = self.seen.nonzero()[:, 0]
        estimates = torch.stack(
            [sign[candidates] * self.sketch[cell[candidates]] for cell, sign in zip(self.cell, self.sign, strict=True)]
        )
        read = estimates.median(0).values
        taken = read.norm(dim=1).topk(min(len(candidates), max(1, len(self.sketch) // 10))).indices.sort().values
        self.add(candidates[taken], -read[taken])
        return with_values(gradient, candidates[taken], read[taken])

    def begin(self, gradient: torch.Tensor) -> None:
        part, table = cells_for(gradient, self.share) // 3, gradient.size(0)
        random = torch.Generator().manual_seed(self.seed)
        self.sketch = torch.zeros(3 * part, gradient.size(1))
        self.cell = torch.randint(part, (3, table), generator=random) + part * torch.arange(3)[:, None]
        self.sign = torch.randint(2, (3, table, 1), generator=random) * 2.0 - 1
        self.seen = torch.zeros(table, dtype=torch.bool)

    def add(self, rows: torch.Tensor, values: torch.Tensor) -> None:
        assert self.sketch is not None
        for cell, sign in zip(self.cell, self.sign, strict=True):
            self.sketch.index_add_(0, cell[rows], sign[rows] * values)


def merak_sketch(feedback: bool) -> Callable[[float, int], Codec]:
    def make(share: float, seed: int) -> Codec:
        codec = merak.sparse.SketchCodec(1, seed, feedback)

        def reduce(gradient: torch.Tensor) -> torch.Tensor:
            codec.budget_bytes = cells_for(gradient, share) * gradient.size(1) * gradient.element_size()
            return merak.sparse.all_reduce(gradient, method="sketch", codec=codec)

        return reduce

    return make


CODECS: dict[str, Callable[[float, int], Codec]] = {
    "exact": exact,
    "count sketch": count_sketch,
    "top-k unsketch": Unsketch,
    "no feedback": merak_sketch(False),
    "feedback": merak_sketch(True),
}


def train(name: str, share: float, options: Options, data: Data) -> float:
    """The validation loss in the end."""
    torch.manual_seed(options.seed)
    model = EmbeddingModel(data.vocabulary, options.width, options.hidden, sparse=True)
    optimizers = Optimizers(model, options)
    codecs = [CODECS[name](share, options.seed + place) for place in range(2)]
    streams = Streams(data.train, options.streams, options.block)
    sampler = LogUniform(data.vocabulary, options.negatives)
    state: State | None = None
    for step in range(options.steps):
        optimizers.zero_grad()
        loss, state = model(streams.window(step), sampler.draw(mix(options.seed, step)), state)
        loss.backward()
        for table, codec in zip(model.tables(), codecs, strict=True):
            assert table.grad is not None
            table.grad = codec(table.grad.coalesce())
        optimizers.step()
        state = (state[0].detach(), state[1].detach())
    with torch.no_grad():
        window = Streams(data.validation, options.streams, options.block).window(0)
        return float(model.full_loss(window, None, model.class_table())[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--cells", type=float, nargs="+", default=[0.25], help="in terms of a step's rows (0.25)")
    parser.add_argument("--codecs", nargs="+", default=list(CODECS), choices=list(CODECS), metavar="CODEC")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--table-optimizer", choices=list(TABLE_RATES), default="adagrad")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--output", type=Path, help="write the losses there, a JSON line a run")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.sparse.check_sparse_tensor_invariants.disable()
    dist.init_process_group("merak", store=dist.HashStore(), rank=0, world_size=1)
    lines = []
    for share in asked.cells:
        for name in asked.codecs:
            losses = []
            for seed in asked.seeds:
                options = Options(
                    steps=asked.steps, width=asked.width, table_optimizer=asked.table_optimizer, seed=seed,
                    negatives=256, vocabulary=10_000,
                )  # fmt: skip
                losses.append(train(name, share, options, read_data(options)))
                how = {"table_optimizer": asked.table_optimizer, "steps": asked.steps, "width": asked.width}
                lines.append({"cells": share, "codec": name, "seed": seed, "loss": losses[-1]} | how)
            spread = statistics.stdev(losses) if len(losses) > 1 else 0.0
            print(f"{share:5g} cells a row  {name:15} {statistics.mean(losses):8.4f} +- {spread:.4f}", flush=True)
    if asked.output:
        asked.output.write_text("".join(json.dumps(line) + "\n" for line in lines))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
