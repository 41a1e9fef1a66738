"""Trains an LSTM language model with large embedding tables on Python's own texts, data parallel.

    torchrun --nproc-per-node 4 examples/train_embedding_model.py                    sparse gradients over merak
    torchrun --nproc-per-node 4 examples/train_embedding_model.py --reduce gloo      the same over Gloo
    ... --embedding alltoall      tables split over the ranks, rows travel (docs/embedding.md)
    python examples/train_embedding_model.py                                         one process, the same training

Nothing is downloaded. The result is a folder (`--output`) with `losses.json` and `loss.png`; `--help` lists the
options, docs/sparse.md explains them.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from common.corpus import load_corpus
from common.history import History
from common.options import defining, parse
from common.program import check_extras, exit_status
from common.progress import Display, Speed, open_display, readable
from common.report import Session, Stopwatch, draw_losses, write_losses
from common.seeds import mix
from common.world import World, join
from embedding_model.engine import Engine
from embedding_model.library import python_texts
from embedding_model.negatives import LogUniform
from embedding_model.options import Options
from embedding_model.reductions import REDUCTIONS
from embedding_model.rows import RowCount
from embedding_model.streams import Streams, Window, join_shuffled
from embedding_model.words import Vocabulary, words

import merak.sparse


@dataclass(frozen=True)
class Data:
    """Tokens to train on and to validate with, both int64 [tokens], and how many different words there are:

    in the texts to train on, and with rows in the tables.
    """

    train: torch.Tensor
    validation: torch.Tensor
    types: int
    vocabulary: int

    def digest(self) -> str:
        """A fingerprint: the texts differ between versions of Python."""
        return hashlib.sha256(self.train.numpy().tobytes() + self.validation.numpy().tobytes()).hexdigest()


def load_data(options: Options, world: World) -> Data:
    """Reads the texts on rank 0, for all ranks: so they agree whatever Python the others run."""
    empty = torch.empty(0, dtype=torch.int64)
    read = read_data(options) if world.leads else Data(empty, empty, 0, 0)
    train, validation = world.share_numbers(read.train), world.share_numbers(read.validation)
    return Data(train, validation, world.share_number(read.types), world.share_number(read.vocabulary))


def read_data(options: Options) -> Data:
    """The texts of this machine's Python as tokens, those to train on in an order drawn from the seed."""
    corpus = load_corpus(python_texts(), options.holdout)
    texts = [words(text) for text in corpus.train]
    vocabulary = Vocabulary(texts, options.vocabulary)
    train = join_shuffled([vocabulary.encode(text) for text in texts], mix(options.seed))
    validation = torch.cat([vocabulary.encode(words(text)) for text in corpus.validation])
    return Data(train, validation, vocabulary.types, len(vocabulary))


class Job:
    """A run: what it reads, what computes it, and what was measured."""

    def __init__(self, options: Options, data: Data, world: World) -> None:
        self._options = options
        self._world = world
        self._share = world.share(options.streams, "--streams")
        self._train = Streams(data.train, options.streams, options.block)
        self._validation = self._validation_windows(data)
        self._sampler = LogUniform(data.vocabulary, options.negatives)
        self.engine = Engine(options, data.vocabulary, world, self._count_rows(8).budgets(options.compression))
        self.history = History(options.steps)
        self.rows = RowCount(options.width, options.streams, world)

    def _count_rows(self, steps: int) -> RowCount:
        """Of the first steps."""
        rows = RowCount(self._options.width, self._options.streams, self._world)
        for step in range(1, steps + 1):
            rows.add(self._train.window(step - 1), self._sampler.draw(mix(self._options.seed, step)))
        return rows

    def run(self, display: Display) -> None:
        """Trains to the end."""
        options, speed = self._options, Speed()
        self._validate(0, display)
        for step in range(1, options.steps + 1):
            window, negatives = self._train.window(step - 1), self._sampler.draw(mix(options.seed, step))
            loss = self.engine.train_step(window.of(self._share), negatives)
            self.rows.add(window, negatives)
            self.history.add_train(step, loss)
            display.step(step, loss, speed.add(window.inputs.numel()), self._world.bytes_sent())
            if step % options.evaluate_every == 0 or step == options.steps:
                self._validate(step, display)

    def _validate(self, step: int, display: Display) -> None:
        loss = self.engine.validate(self._validation)
        self.history.add_validation(step, loss)
        display.note(f"after {step} steps: validation loss {loss:.4f}, perplexity {math.exp(loss):,.1f}")

    def _validation_windows(self, data: Data) -> list[Window]:
        options = self._options
        streams = Streams(data.validation, options.streams, options.block)
        wanted = -(-options.validation_words // (options.streams * options.block))
        return [streams.window(step).of(self._share) for step in range(min(wanted, streams.blocks))]


def describe_run(options: Options, data: Data, parameters: int) -> dict[str, Any]:
    """What defines the run: its options and its data."""
    sizes = {"parameters": parameters, "words": len(data.train), "types": data.types, "rows": data.vocabulary}
    return defining(options) | sizes | {"data": data.digest()}


def measured(job: Job, steps: int, world: World) -> dict[str, Any]:
    """What is of interest in the reduction: rows a step; seconds a step that backward waited; bytes, of all ranks."""
    statistics = merak.sparse.statistics()
    sent = world.sum([float(count) for count in statistics["bytes_sent"].values()])
    return {
        "rows_per_step": job.rows.report(),
        "all_gather_bytes": job.rows.all_gather_bytes(),
        "waited_per_step": world.mean(job.engine.waited) / steps,
        "seconds_per_step": world.mean(job.engine.seconds) / steps,
        "bytes_per_step": world.sum([job.engine.bytes_sent])[0] / steps,
        "sparse_tables": statistics["tables"],
        "sparse_bytes_sent": dict(zip(statistics["bytes_sent"], map(int, sent), strict=True)),
    }


def report(job: Job, options: Options, run: dict[str, Any], session: Session, world: World) -> None:
    """Writes the report; on rank 0 prints its gist."""
    more = measured(job, options.steps, world)
    if not world.leads:
        return
    write_losses(options.output / "losses.json", run, world, session, job.history, **more)
    title = f"LSTM, tables of {run['rows']:,} rows, --reduce {options.reduce}, {world.title}"
    draw_losses(options.output / "loss.png", job.history, run["rows"], title)
    before, after = (math.exp(job.history.validation()[place][1]) for place in (0, -1))
    print(f"perplexity {before:,.1f} before, {after:,.1f} after {options.steps} steps")
    for name, count in more["rows_per_step"].items():
        print(
            f"{name}: {count['rank']:,.0f} of {run['rows']:,} rows a rank and step, {count['union']:,.0f} in the union"
        )
    print(
        f"{session.seconds:.1f} s, {session.tokens_per_second:,.0f} words/s; backward waited "
        f"{more['waited_per_step'] * 1e3:.1f} ms a step for communication"
    )
    rows = None if session.bytes_sent is None else sum(more["sparse_bytes_sent"].values())
    print(f"sent {readable(session.bytes_sent)}, of it rows of sparse gradients {readable(rows)}")
    print(
        f"by formula: ring all-reduce of all gradients as dense ones {readable(session.ring_bytes)}, "
        f"all-gather of the tables' rows {readable(more['all_gather_bytes'])}"
    )
    print(f"wrote {options.output / 'losses.json'} and {options.output / 'loss.png'}")


def train(options: Options, world: World) -> None:
    """The whole job on this rank."""
    data = load_data(options, world)
    job = Job(options, data, world)
    if world.leads:
        options.output.mkdir(parents=True, exist_ok=True)
    world.say(
        f"{world.title}, --reduce {options.reduce}; {len(data.train):,} words to train on, {data.types:,} different "
        f"ones, {data.vocabulary:,} with rows; {job.engine.parameters:,} parameters; "
        f"{options.steps} steps of {options.streams} x {options.block} words"
    )
    if REDUCTIONS[options.reduce].backend == "merak":
        merak.sparse.calibrate()  # so that measuring the network is not part of what the report counts
    watch = Stopwatch(world)
    display = open_display(options.steps, 0, options.log_every, world)
    try:
        job.run(display)
    finally:
        display.close()
    session = watch.stop(0, options.steps, options.streams * options.block, job.engine.parameters)
    report(job, options, describe_run(options, data, job.engine.parameters), session, world)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line, the process's own unless `arguments` are given; the exit status."""

    def work() -> None:
        options = parse(str(__doc__).partition("\n")[0], Options, arguments)
        check_extras(rich="viz", matplotlib="viz")
        torch.set_num_threads(options.threads)
        torch.sparse.check_sparse_tensor_invariants.disable()  # said aloud, or torch warns that they are not checked
        with join(REDUCTIONS[options.reduce].backend, timedelta(seconds=options.timeout)) as world:
            train(options, world)

    return exit_status(work, "interrupted")


if __name__ == "__main__":
    sys.exit(main())
