"""Pretrains a small GPT-2 on Python's own documentation, easy and short samples first, with layers that drop tokens.

    python examples/pretrain_gpt_on_less.py             # and with --plain, what it is compared with

What it shows: an index of how rare the words of each sample are (`merak.data.analyze`); a curriculum by that and by
length; random layerwise token dropping on an unmodified Hugging Face model; a learning rate that follows layer-tokens;
and the four counts of what was used. Both trainings end after as many layer-tokens.
"""

from __future__ import annotations

import tempfile

import torch
from common.corpus import load_corpus, python_reference
from common.less_data import Batch, options_of, train
from language_model.tokens import read_tokenizer, sequences, train_tokenizer

from merak.data import CurriculumLoader, CurriculumSampler, KeepSchedule, Pacing, RandomLTD, TruncateLength, analyze

VOCABULARY, TOKENS, ROWS = 512, 64, 16


def build_model(seed: int) -> torch.nn.Module:
    """Six layers, of which four drop tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=TOKENS,
        n_embd=48,
        n_layer=6,
        n_head=4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.08,  # the library's 0.02 is for wider models
        use_cache=False,
    )
    return GPT2LMHeadModel(config)


def main() -> None:
    """Trains, and says how good the model is on texts that it has not seen."""
    options = options_of(str(__doc__), steps=300)
    corpus = load_corpus(python_reference(), holdout=8)
    tokenizer = read_tokenizer(train_tokenizer(corpus.train, VOCABULARY))
    rows, held_out = (sequences(tokenizer, texts, TOKENS) for texts in (corpus.train, corpus.validation))
    paced, most = int(0.4 * options.steps), TOKENS
    with tempfile.TemporaryDirectory() as folder:
        index = analyze(rows.tolist(), ["vocabulary_rarity"], output=folder)
        pacing = Pacing.root(100 if options.plain else 5, 100, paced, degree=2, by="percentile")
        sampler = CurriculumSampler(index, {"vocabulary_rarity": pacing}, batch_size=ROWS, seed=options.seed)
        length = Pacing.linear(most if options.plain else most // 8, most, paced, quantum=4)
        dataset = [{"input_ids": row, "labels": row} for row in rows]
        loader = CurriculumLoader(dataset, sampler, transform=TruncateLength(length))
        model = build_model(options.seed)
        dropping = KeepSchedule(most // 8, int(0.7 * options.steps), end=most, quantum=4)
        schedule = KeepSchedule.constant(most) if options.plain else dropping
        ltd = RandomLTD(model, schedule=schedule, seed=options.seed)
        counters = train(model, ltd, loader, shape_of, budget=options.steps * ROWS * TOKENS)
    model.eval()
    with torch.no_grad():
        losses = [float(model(input_ids=part, labels=part).loss) * len(part) for part in held_out.split(64)]
    print(f"held-out loss {sum(losses) / len(held_out):.4f} nats a token, after {counters}")


def shape_of(batch: Batch) -> tuple[int, int]:
    """Rows and tokens."""
    rows, tokens = batch["input_ids"].shape
    return rows, tokens


if __name__ == "__main__":
    main()
