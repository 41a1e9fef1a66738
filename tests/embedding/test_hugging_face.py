"""Unmodified models of Hugging Face, their tables split."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor

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


def embeddings_tied_to_each_other(context: Context) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes: dict[str, Any] = {"vocab_size": 100, "d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    tied = T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0))
    with pytest.raises(ValueError, match=r"shared\.weight is also lm_head\.weight: the two are tied"):
        merak.embedding.shard(tied)

    t5 = T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0))
    t5.lm_head.weight = torch.nn.Parameter(t5.lm_head.weight.detach().clone())
    plain, t5 = t5.double().eval(), copy.deepcopy(t5).double().eval()
    names = merak.embedding.shard(t5)
    assert [name for name in names if "relative_attention_bias" not in name] == ["shared"]
    assert t5.encoder.embed_tokens is t5.shared
    assert t5.decoder.embed_tokens is t5.shared
    ddp = torch.nn.parallel.DistributedDataParallel(t5)

    generator = torch.Generator().manual_seed(2)
    batches = torch.randint(1, 100, (context.world_size, 2, 6), generator=generator)
    ids = batches[context.rank]
    ddp(input_ids=ids, labels=ids).logits.square().mean().backward()
    for ids in batches:
        (plain(input_ids=ids, labels=ids).logits.square().mean() / context.world_size).backward()
    before = plain.shared.weight.detach().clone()
    for model in (plain, t5):
        torch.optim.SGD(model.parameters(), lr=0.5).step()
    ours, theirs = t5.state_dict(), plain.state_dict()
    assert ours.keys() == theirs.keys()
    for name, whole in theirs.items():
        found = ours[name]
        found = found.full_tensor() if isinstance(found, DTensor) else found
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-6, msg=name)  # its norms are in float32
    assert (plain.shared.weight - before).abs().max() > 1e-3


def test_embeddings_that_are_tied_to_each_other(pool: RankPool) -> None:
    pool.run(embeddings_tied_to_each_other, world_size=3)
