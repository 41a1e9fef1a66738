"""Trains a small GPT-2 on Python's own documentation, data parallel, over the backend `merak`.

    torchrun --nproc-per-node 4 examples/train_language_model.py     four ranks
    python examples/train_language_model.py                          one process, the same training

Nothing is downloaded. The result is a folder (`--output`) with checkpoints, `losses.json` and `loss.png`; `--help`
lists the options, docs/training.md explains them.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from language_model.checkpoint import Checkpoints
from language_model.corpus import load_corpus
from language_model.data import DataOrder, slice_of_rank
from language_model.engine import DataParallelEngine
from language_model.history import History
from language_model.loop import Job
from language_model.model import build_model, count_parameters
from language_model.options import Options, UsageError, parse
from language_model.progress import open_display, readable
from language_model.report import Session, Stopwatch, draw_losses, write_losses
from language_model.tokens import read_tokenizer, sequences, train_tokenizer
from language_model.world import World, join

from merak import _extras


def check_extras() -> None:
    """Fails now, and not after minutes of training, where an optional package is missing."""
    for module, extra in (("transformers", "hf"), ("tokenizers", "hf"), ("rich", "viz"), ("matplotlib", "viz")):
        _extras.require(module, extra=extra)


def load_data(options: Options, world: World) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Rows of tokens to train on and to validate with, both int64 [rows, block], and the size of the vocabulary."""
    corpus = load_corpus(options.holdout)
    json = train_tokenizer(corpus.train, options.vocabulary) if world.leads else ""
    tokenizer = read_tokenizer(world.share_text(json))
    train = sequences(tokenizer, corpus.train, options.block)
    validation = sequences(tokenizer, corpus.validation, options.block)
    return train, validation, tokenizer.get_vocab_size()


def describe_run(options: Options, parameters: int, *data: torch.Tensor) -> dict[str, Any]:
    """What defines the run: its options and its data, whose text differs between versions of Python."""
    digest = hashlib.sha256(b"".join(rows.numpy().tobytes() for rows in data)).hexdigest()
    return options.defining() | {"parameters": parameters, "data": digest}


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
        f"{session.tokens_per_second:,.0f} tokens/s; sent {readable(session.bytes_sent)}, "
        f"ring all-reduce of the gradients by formula {readable(session.ring_bytes)}"
    )
    print(f"wrote {output / 'losses.json'} and {output / 'loss.png'}")


def train(options: Options, world: World) -> None:
    """The whole job on this rank."""
    slice_of_rank(options.global_batch, world.rank, world.size)  # refuses an uneven division before any work
    rows, validation, vocabulary = load_data(options, world)
    model = build_model(options, vocabulary)
    parameters = count_parameters(model)
    run = describe_run(options, parameters, rows, validation)
    checkpoints = Checkpoints(options.output / "checkpoints", run, options.keep, world)
    engine = DataParallelEngine(model, options, world)
    order = DataOrder(len(rows), options.seed)
    job = Job(options, world, engine, rows, validation, order, History(options.steps), checkpoints)
    world.say(
        f"{world.title}; {parameters:,} parameters; {rows.numel():,} tokens to train on, "
        f"{validation.numel():,} to validate; {options.steps} steps of {options.global_batch} x {options.block} tokens"
    )
    first = start(job)
    watch = Stopwatch(world)
    display = open_display(options, first, world)
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


def complain(text: str) -> None:
    """Prints why this rank leaves. All ranks mostly leave for one reason, so rank 0 is given the time to name it once:

    torchrun ends the others as soon as it has left. Where this rank is the only one to leave, it speaks for itself.
    """
    if os.environ.get("RANK", "0") != "0":
        time.sleep(5)
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line, the process's own unless `arguments` are given; the exit status."""
    try:
        options = parse(str(__doc__).partition("\n")[0], arguments)
        check_extras()
        torch.set_num_threads(options.threads)
        with join(options.backend, timedelta(seconds=options.timeout)) as world:
            train(options, world)
    except (UsageError, ImportError) as error:
        complain(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        complain("interrupted; the same command with --resume goes on from the last checkpoint")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
