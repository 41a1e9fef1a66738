"""Pretrains a small BERT on Python's own documentation, common words first, with layers that drop tokens.

    python examples/pretrain_bert_on_less.py            # and with --plain, what it is compared with

As `pretrain_gpt_on_less.py`, for a model of masked tokens: rows keep their length, and tokens are dropped until the
end, as in the published recipe for BERT. Where a masked token is dropped by a layer it still comes out of the model, so
that all targets count.
"""

from __future__ import annotations

import tempfile

import torch
from common.corpus import load_corpus, python_reference
from common.less_data import Batch, options_of, train
from language_model.tokens import read_tokenizer, sequences, train_tokenizer

from merak.data import CurriculumLoader, CurriculumSampler, KeepSchedule, Pacing, RandomLTD, analyze

VOCABULARY, TOKENS, ROWS = 512, 64, 16
MASK, IGNORED = VOCABULARY, -100  # one more token, which stands for a hidden one; the label of what is not hidden


def build_model(seed: int) -> torch.nn.Module:
    """Six layers, of which four drop tokens."""
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=VOCABULARY + 1,
        hidden_size=48,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=192,
        max_position_embeddings=TOKENS,
        initializer_range=0.08,  # the library's 0.02 is for wider models
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertForMaskedLM(config)


def hide(batch: Batch, step: int) -> Batch:
    """A seventh of the tokens is to be guessed: which ones follows from the step, so that a resumed training agrees."""
    tokens = batch["input_ids"]
    hidden = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(step)) < 1 / 7
    return {"input_ids": tokens.masked_fill(hidden, MASK), "labels": tokens.masked_fill(~hidden, IGNORED)}


def main() -> None:
    """Trains, and says how good the model is on texts that it has not seen."""
    options = options_of(str(__doc__), steps=300)
    corpus = load_corpus(python_reference(), holdout=8)
    tokenizer = read_tokenizer(train_tokenizer(corpus.train, VOCABULARY))
    rows, held_out = (sequences(tokenizer, texts, TOKENS) for texts in (corpus.train, corpus.validation))
    with tempfile.TemporaryDirectory() as folder:
        index = analyze(rows.tolist(), ["vocabulary_rarity"], output=folder)
        pacing = Pacing.root(100 if options.plain else 5, 100, options.steps // 2, degree=2, by="percentile")
        sampler = CurriculumSampler(index, {"vocabulary_rarity": pacing}, batch_size=ROWS, seed=options.seed)
        loader = CurriculumLoader([{"input_ids": row} for row in rows], sampler, transform=hide)
        model = build_model(options.seed)
        dropping = KeepSchedule(TOKENS // 4, options.steps, end=TOKENS, quantum=4)
        ltd = RandomLTD(model, schedule=KeepSchedule.constant(TOKENS) if options.plain else dropping, seed=options.seed)
        counters = train(model, ltd, loader, lambda batch: (ROWS, TOKENS), budget=options.steps * ROWS * TOKENS)
    model.eval()
    exam = hide({"input_ids": held_out}, options.seed)
    with torch.no_grad():
        loss = float(model(**exam).loss)
    print(f"held-out loss {loss:.4f} nats a hidden token, after {counters}")


if __name__ == "__main__":
    main()
