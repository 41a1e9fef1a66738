"""Unmodified models of Hugging Face, their tables split."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import merak.embedding
from tests.backend.harness import Context, RankPool

pytest.importorskip("transformers")


def models(context: Context) -> None:
    from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

    small: dict[str, Any] = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = BertForSequenceClassification(BertConfig(**small, intermediate_size=64)).eval()
    ids = torch.randint(0, 100, (2 + context.rank, 8))
    expected = bert(input_ids=ids).logits
    names = merak.embedding.shard(bert)
    assert names == [f"bert.embeddings.{kind}_embeddings" for kind in ("word", "position", "token_type")]
    torch.testing.assert_close(bert(input_ids=ids).logits, expected)

    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=100, n_layer=1, n_head=2, n_embd=32, n_positions=16))
    with pytest.raises(ValueError, match=r"transformer\.wte\.weight is also lm_head\.weight: the two are tied"):
        merak.embedding.shard(gpt2)
    assert merak.embedding.shard(gpt2, only=lambda name, _: name == "transformer.wpe") == ["transformer.wpe"]


def test_models_compute_the_same(pool: RankPool) -> None:
    pool.run(models, world_size=2)
