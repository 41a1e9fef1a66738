"""Trains a small T5 to put the vowels back into words, pipelined over encoder and decoder.

    torchrun --nproc-per-node 4 examples/train_vowels.py     "dcmnttn" -> "documentation"

Four ranks are one pipeline of four stages. What it shows:

- An encoder-decoder. What the encoder made is needed by every block of the decoder, and relative positions by every
  block: such values skip stages. They travel straight from the stage that makes them to each that needs them.
- A weight tied three ways: encoder, decoder and output layer share one matrix, in up to three stages.

The words are those of Python's own documentation, as often as they stand there; every eighth topic is held out. A word
counts as right if the likeliest letter is the right one everywhere, given the ones before: then it is what the model
would write by itself.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

import torch
from common.corpus import load_corpus, python_reference
from common.pipelines import Batch, Options, draw, make_plan, mine, part, run, skips, train_steps
from common.world import World
from torch import nn

import merak

PADDING, END = 0, 1
LETTERS = "abcdefghijklmnopqrstuvwxyz"  # tokens 2, 3, ...
LONGEST = 14
IGNORED = -100  # the label of padding


def load_words() -> tuple[Batch, Batch]:
    """Those to train on, and a thousand of those held out."""
    corpus = load_corpus(python_reference(), holdout=8)
    train, held_out = (re.findall(r"\b[a-z]{2,13}\b", " ".join(texts)) for texts in (corpus.train, corpus.validation))
    return encode(train), encode(held_out[:1000])


def encode(words: Sequence[str]) -> Batch:
    """Words as a model takes them: consonants to read, whole words to write; int64 [words, LONGEST] each."""
    consonants = torch.tensor([tokens(re.sub("[aeiou]", "", word)) for word in words])
    labels = torch.tensor([tokens(word) for word in words])
    return {
        "input_ids": consonants,
        "attention_mask": (consonants != PADDING).long(),
        "labels": labels.masked_fill(labels == PADDING, IGNORED),
    }


def tokens(word: str) -> list[int]:
    """A word's letters, its end, and padding."""
    return [*(2 + LETTERS.index(letter) for letter in word), END, *[PADDING] * (LONGEST - 1 - len(word))]


def build_model(options: Options) -> nn.Module:
    """The same random weights on all ranks."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(options.seed)
    config = T5Config(
        vocab_size=2 + len(LETTERS),
        d_model=options.width,
        d_kv=options.width // 4,
        d_ff=4 * options.width,
        num_layers=options.layers // 2,  # of the encoder, and as many of the decoder
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=PADDING,
        eos_token_id=END,
        decoder_start_token_id=PADDING,
        tie_word_embeddings=True,
    )
    return T5ForConditionalGeneration(config)


def examine(engine: merak.engine.Engine, words: Batch, world: World) -> tuple[float | None, float]:
    """The loss of words, and how many are restored."""
    own = mine(words, engine)
    loss, output = engine.eval_step(own)
    labels = own["labels"]
    right = ((output.logits.argmax(-1) == labels) | (labels == IGNORED)).all(-1)
    restored, count = world.sum([float(right.sum()), len(right)])
    return loss, restored / count


def train(options: Options, world: World) -> None:
    """The whole job on this rank."""
    words, held_out = load_words()
    plan = make_plan(options, world, pp=4)

    def batch(step: int) -> Batch:
        chosen, _ = draw(options, step, len(words["labels"]))
        return {name: rows[chosen] for name, rows in words.items()}

    engine = merak.parallelize(
        build_model(options),
        plan,
        part(batch(0), 0, plan.dp),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=options.learning_rate),
        clip=1.0,
    )
    world.say(engine.explain())
    world.say(skips(engine))
    train_steps(engine, options, world, batch)
    exam, restored = examine(engine, held_out, world)
    world.say(f"held-out loss {exam:.5f} nats a letter; {100 * restored:.1f} % of held-out words restored")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line, the process's own unless `arguments` are given; the exit status."""
    return run(str(__doc__), train, arguments, transformers="hf")


if __name__ == "__main__":
    sys.exit(main())
