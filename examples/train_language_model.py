"""Trains a small GPT-2 on Python's own documentation, data parallel and pipelined, over the backend `merak`.

    torchrun --nproc-per-node 4 examples/train_language_model.py     four ranks
    python examples/train_language_model.py                          one process, the same training

Nothing is downloaded. The result is a folder (`--output`) with checkpoints, `losses.json` and `loss.png`; `--help`
lists the options, docs/training.md explains them.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from common.corpus import load_corpus, python_reference
from common.history import History
from common.options import defining, parse
from common.program import check_extras, exit_status
from common.progress import open_display, readable
from common.report import Session, Stopwatch, draw_losses, write_losses
from common.world import World, join
from language_model.checkpoint import Checkpoints
from language_model.data import DataOrder, training_batch
from language_model.engine import DataParallelEngine
from language_model.loop import Engine, Job
from language_model.model import build_model, count_parameters
from language_model.options import Options
from language_model.pipeline import PipelineEngine, shape
from language_model.tokens import read_tokenizer, sequences, train_tokenizer
from torch import nn

SENT = {
    "pipeline": "values and gradients between stages, and each stage's gradients over its replicas",
    "ddp": "all gradients over all ranks",
}
"""What a step sends, by `--engine`."""


def load_data(options: Options, world: World) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Rows of tokens to train on and to validate with, both int64 [rows, block], and the size of the vocabulary."""
    corpus = load_corpus(python_reference(), options.holdout)
    json = train_tokenizer(corpus.train, options.vocabulary) if world.leads else ""
    tokenizer = read_tokenizer(world.share_text(json))
    train = sequences(tokenizer, corpus.train, options.block)
    validation = sequences(tokenizer, corpus.validation, options.block)
    return train, validation, tokenizer.get_vocab_size()


def describe_run(options: Options, parameters: int, *data: torch.Tensor) -> dict[str, Any]:
    """What defines the run: its options and its data, whose text differs between versions of Python."""
    digest = hashlib.sha256(b"".join(rows.numpy().tobytes() for rows in data)).hexdigest()
    return defining(options) | {"parameters": parameters, "data": digest}


def build_engine(model: nn.Module, options: Options, world: World, rows: torch.Tensor) -> Engine:
    """The model over all ranks; its plan is printed."""
    if options.engine == "ddp":
        return DataParallelEngine(model, options, world)
    engine = PipelineEngine(model, options, world, training_batch(rows, torch.arange(options.global_batch)))
    world.say(engine.explain())
    return engine


def report(job: Job, run: dict[str, Any], session: Session, vocabulary: int) -> None:
    """Writes the report and prints its gist, on rank 0."""
    if not job.world.leads:
        return
    output = job.options.output
    title = f"GPT-2, {run['parameters']:,} parameters, {job.world.title}"
    write_losses(output / "losses.json", run, job.world, session, job.history)
    draw_losses(output / "loss.png", job.history, vocabulary, title)
    (start, before), (end, after) = job.history.validation()[0], job.history.validation()[-1]
    if session.last_step < job.options.steps:
        print(f"stopped after step {session.last_step} of {job.options.steps}; --resume goes on")
    print(f"validation loss {before:.4f} at step {start}, {after:.4f} at step {end}: {before - after:.4f} nats lower")
    print(
        f"{session.seconds:.1f} s, {session.cpu_seconds:.1f} CPU s over all ranks, "
        f"{session.tokens_per_second:,.0f} tokens/s\n"
        f"sent {readable(session.bytes_sent)} over all ranks: {SENT[job.options.engine]}; by formula, data parallelism "
        f"alone sends {readable(session.ring_bytes)} (ring all-reduces of all gradients over all ranks)"
    )
    print(f"wrote {output / 'losses.json'} and {output / 'loss.png'}")


def train(options: Options, world: World) -> None:
    """The whole job on this rank."""
    if options.engine == "pipeline" and options.plan == "given":
        shape(options, world)  # refuses an uneven division before any work
    elif options.engine == "ddp":
        world.share(options.global_batch, "--global-batch")
    rows, validation, vocabulary = load_data(options, world)
    model = build_model(options, vocabulary)
    parameters = count_parameters(model)
    run = describe_run(options, parameters, rows, validation)
    checkpoints = Checkpoints(options.output / "checkpoints", run, options.keep, world)
    engine = build_engine(model, options, world, rows)
    order = DataOrder(len(rows), options.seed)
    job = Job(options, world, engine, rows, validation, order, History(options.steps), checkpoints)
    world.say(
        f"{world.title}; {parameters:,} parameters; {rows.numel():,} tokens to train on, "
        f"{validation.numel():,} to validate; {options.steps} steps of {options.global_batch} x {options.block} tokens"
    )
    first = start(job)
    watch = Stopwatch(world)
    display = open_display(options.steps, first, options.log_every, world)
    try:
        last = job.run(first, display)
    finally:
        display.close()
    report(job, run, watch.stop(first, last, options.global_batch * options.block, parameters), vocabulary)


def start(job: Job) -> int:
    """Resumes the run if asked to, else clears the way for a new one; the number of steps already done."""
    if job.options.resume:
        first = job.resume()
        job.world.say(f"resuming after step {first}" if first else "no checkpoint to resume from; starting anew")
        return first
    if moved := job.checkpoints.set_aside():
        job.world.say(f"checkpoints of an earlier run were moved to {moved}; --resume would have used them")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line, the process's own unless `arguments` are given; the exit status."""

    def work() -> None:
        options = parse(str(__doc__).partition("\n")[0], Options, arguments)
        check_extras(transformers="hf", tokenizers="hf", rich="viz", matplotlib="viz")
        torch.set_num_threads(options.threads)
        with join(options.backend, timedelta(seconds=options.timeout)) as world:
            train(options, world)

    return exit_status(work, "interrupted; the same command with --resume goes on from the last checkpoint")


if __name__ == "__main__":
    sys.exit(main())
