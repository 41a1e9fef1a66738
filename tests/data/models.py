"""Small models of Hugging Face's, with batches for them, and what tests of random layerwise token dropping need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import nn

ROWS, TOKENS, WORDS = 3, 24, 50
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": WORDS,
    "max_position_embeddings": 64,
}
Batch = dict[str, torch.Tensor]
Made = tuple[nn.Module, Batch]


def words(**others: torch.Tensor) -> Batch:
    ids = torch.randint(3, WORDS, (ROWS, TOKENS))
    return {"input_ids": ids, "labels": ids.clone(), **others}


def right_padded() -> torch.Tensor:
    mask = torch.ones(ROWS, TOKENS, dtype=torch.int64)
    mask[0, 15:] = 0
    mask[2, 20:] = 0
    return mask


def left_padded() -> torch.Tensor:
    return right_padded().flip(1)


def packed() -> torch.Tensor:
    """Position ids of rows of two and three documents."""
    cuts = ((10, 14), (5, 9, 10), (24,))
    return torch.stack([torch.cat([torch.arange(length) for length in row]) for row in cuts])


def document_mask(window: int | None = None) -> torch.Tensor:
    """[rows, 1, tokens, tokens], true where one attends to the other: causal, within documents, within a window."""
    documents = (packed() == 0).cumsum(1)
    at = torch.arange(TOKENS)
    seen = (at[:, None] >= at[None, :]) & (documents[:, :, None] == documents[:, None, :])
    if window is not None:
        seen &= at[:, None] - at[None, :] < window
    return seen.unsqueeze(1)


def gpt2(attention: str, **batch: Any) -> Made:
    config = transformers.GPT2Config(
        n_embd=32, n_layer=4, n_head=4, vocab_size=WORDS, n_positions=64, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    config._attn_implementation = attention
    return transformers.GPT2LMHeadModel(config), words(**batch)


def bert(attention: str, **batch: Any) -> Made:
    config = transformers.BertConfig(**SMALL, hidden_dropout_prob=0, attention_probs_dropout_prob=0)
    config._attn_implementation = attention
    return transformers.BertForMaskedLM(config), words(**batch)


def llama(attention: str, **batch: Any) -> Made:
    config = transformers.LlamaConfig(**SMALL, num_key_value_heads=2, use_cache=False)
    config._attn_implementation = attention
    return transformers.LlamaForCausalLM(config), words(**batch)


def mistral(attention: str, **batch: Any) -> Made:
    config = transformers.MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=6, use_cache=False)
    config._attn_implementation = attention
    return transformers.MistralForCausalLM(config), words(**batch)


def vit(attention: str, **batch: Any) -> Made:
    few = {name: value for name, value in SMALL.items() if name not in ("vocab_size", "max_position_embeddings")}
    config = transformers.ViTConfig(
        **few, image_size=16, patch_size=4, num_labels=5, hidden_dropout_prob=0, attention_probs_dropout_prob=0
    )
    config._attn_implementation = attention
    labels = torch.randint(5, (ROWS,))
    return transformers.ViTForImageClassification(config), {
        "pixel_values": torch.randn(ROWS, 3, 16, 16),
        "labels": labels,
    }


CASES: dict[str, Callable[[], Made]] = {
    "gpt2": lambda: gpt2("sdpa"),
    "gpt2-eager": lambda: gpt2("eager"),
    "gpt2-padded": lambda: gpt2("sdpa", attention_mask=right_padded()),
    "bert": lambda: bert("sdpa"),
    "bert-padded": lambda: bert("sdpa", attention_mask=right_padded()),
    "bert-padded-eager": lambda: bert("eager", attention_mask=right_padded()),
    "vit": lambda: vit("sdpa"),
    "vit-eager": lambda: vit("eager"),
    "llama": lambda: llama("sdpa"),
    "llama-left-padded": lambda: llama("sdpa", attention_mask=left_padded()),
    "llama-packed": lambda: llama("sdpa", position_ids=packed()),
    "llama-packed-eager": lambda: llama("eager", position_ids=packed()),
    "llama-4d-mask": lambda: llama("sdpa", attention_mask=document_mask(), position_ids=packed()),
    "mistral-window": lambda: mistral("sdpa"),
    "mistral-window-packed": lambda: mistral("eager", position_ids=packed()),
}


def made(case: str, seed: int = 0) -> Made:
    """A model in training mode, and its batch; the same ones for the same seed."""
    torch.manual_seed(seed)
    model, batch = CASES[case]()
    return model.train(), batch


def stack_of(model: nn.Module) -> nn.ModuleList:
    return max((m for m in model.modules() if isinstance(m, nn.ModuleList)), key=len)


def outcome(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits, and gradients by parameter, zeros where there is none."""
    model.zero_grad()
    result = model(**batch)
    result.loss.backward()
    return result.logits.detach(), [
        torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()
    ]
