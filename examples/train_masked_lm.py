"""Trains a small BERT to fill in letters of Python's own documentation, data parallel and pipelined.

    torchrun --nproc-per-node 4 examples/train_masked_lm.py

Four ranks are two replicas of two stages. What it shows:

- An unmodified Hugging Face model; `merak.parallelize` finds where to cut it.
- A *tied* weight: the first stage looks tokens up in the matrix by which the last one scores them. Each has a copy,
  and their gradients are added up, so that the copies stay equal.
- A loss over targets that are unevenly spread: a seventh of all tokens is hidden at random, so micro-batches have
  different numbers of targets. The loss is still the exact mean over the global batch, on any number of ranks.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from common.corpus import load_corpus, python_reference
from common.pipelines import Batch, Options, draw, make_plan, mine, part, run, train_steps
from common.world import World
from language_model.tokens import read_tokenizer, sequences, train_tokenizer
from torch import nn

import merak

VOCABULARY, BLOCK = 257, 32  # 256 bytes and the end of a text: words would take hours to be learnt
MASK = VOCABULARY  # one more token, which stands for a hidden one
IGNORED = -100  # the label of what is not to be guessed


def load_data(world: World) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of tokens to train on and held-out ones, both int64 [rows, BLOCK]."""
    corpus = load_corpus(python_reference(), holdout=8)
    json = train_tokenizer(corpus.train, VOCABULARY) if world.leads else ""
    tokenizer = read_tokenizer(world.share_text(json))
    return sequences(tokenizer, corpus.train, BLOCK), sequences(tokenizer, corpus.validation, BLOCK)


def build_model(options: Options) -> nn.Module:
    """The same random weights on all ranks."""
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(options.seed)
    config = BertConfig(
        vocab_size=VOCABULARY + 1,
        hidden_size=options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=4,
        intermediate_size=4 * options.width,
        max_position_embeddings=BLOCK,
        initializer_range=options.width**-0.5,  # the library's 0.02 is for wider models
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = BertForMaskedLM(config)
    # Positions start as waves of 4 to 256 tokens: random ones would take long to tell which letters are neighbours.
    angles = 2 * torch.pi * torch.arange(BLOCK).unsqueeze(1) / torch.logspace(2, 8, options.width // 2, base=2)
    model.bert.embeddings.position_embeddings.weight.data.copy_(0.2 * torch.cat([angles.sin(), angles.cos()], 1))
    return model


def hide(tokens: torch.Tensor, random: torch.Generator) -> Batch:
    """A batch in which a seventh of the tokens is to be guessed."""
    hidden = torch.rand(tokens.shape, generator=random) < 1 / 7
    return {"input_ids": tokens.masked_fill(hidden, MASK), "labels": tokens.masked_fill(~hidden, IGNORED)}


def loss_by_frequency(rows: torch.Tensor, labels: torch.Tensor) -> float:
    """Of guesses that know how often each token occurs in `rows`, and nothing of its neighbours."""
    counts = 1 + torch.bincount(rows.flatten(), minlength=VOCABULARY)
    return -float((counts / counts.sum()).log()[labels[labels != IGNORED]].mean())


def train(options: Options, world: World) -> None:
    """The whole job on this rank."""
    rows, held_out = load_data(world)
    plan = make_plan(options, world, pp=2)

    def batch(step: int) -> Batch:
        chosen, random = draw(options, step, len(rows))
        return hide(rows[chosen], random)

    engine = merak.parallelize(
        build_model(options),
        plan,
        part(batch(0), 0, plan.dp),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=options.learning_rate),
        clip=1.0,
    )
    world.say(engine.explain())
    train_steps(engine, options, world, batch)
    exam = hide(held_out, torch.Generator().manual_seed(options.seed))
    loss = engine.eval_step(mine(exam, engine), output=False).loss
    frequency = loss_by_frequency(rows, exam["labels"])
    world.say(f"held-out loss {loss:.5f} nats a hidden token; of guesses by frequency alone {frequency:.5f}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line, the process's own unless `arguments` are given; the exit status."""
    return run(str(__doc__), train, arguments, transformers="hf", tokenizers="hf")


if __name__ == "__main__":
    sys.exit(main())
