"""Large models for planning: on "meta", without values; and the plans that were published for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn

_ROWS = 4
"""Of the example."""


@dataclass(frozen=True)
class Large:
    """A model.

    Attributes:
        name: for tables.
        make: makes it, and an example of its batch; on "meta" when called within that device.
        rows: of a step's batch on 64 devices, all replicas together.
        by_hand: (tp, pp) that its authors, or those of the system named, have published.
        source: who did.
    """

    name: str
    make: Callable[[], tuple[nn.Module, dict[str, torch.Tensor]]]
    rows: int
    by_hand: tuple[tuple[int, int], ...] = ()
    source: str = ""


def _text(length: int, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    ids = torch.zeros(_ROWS, length, dtype=torch.long, device="cpu")
    return {"input_ids": ids, "labels": ids} | more


def _gpt(layers: int, hidden: int, heads: int) -> Callable[[], tuple[nn.Module, dict[str, torch.Tensor]]]:
    def make() -> tuple[nn.Module, dict[str, torch.Tensor]]:
        config = transformers.GPT2Config(
            n_layer=layers, n_embd=hidden, n_head=heads, n_positions=1024, use_cache=False, vocab_size=51200
        )
        return transformers.GPT2LMHeadModel(config), _text(1024)

    return make


def _llama_70b() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    config = transformers.LlamaConfig(
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        max_position_embeddings=4096,
        use_cache=False,
    )
    return transformers.LlamaForCausalLM(config), _text(4096)


def _mixtral() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    config = transformers.MixtralConfig(max_position_embeddings=4096, use_cache=False, sliding_window=None)
    return transformers.MixtralForCausalLM(config), _text(4096)


def _t5_11b() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    config = transformers.T5Config(
        d_model=1024,
        d_ff=65536,
        d_kv=128,
        num_heads=128,
        num_layers=24,
        use_cache=False,
        vocab_size=32128,
        decoder_start_token_id=0,
    )
    return transformers.T5ForConditionalGeneration(config), _text(512)


class _Classified(nn.Module):
    """Images, and the loss of their classes."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The mean cross entropy."""
        return {"loss": nn.functional.cross_entropy(self.trunk(images).logits, labels)}


def _wide_resnet() -> tuple[nn.Module, dict[str, Any]]:
    """Of 13 B, as Alpa made them wider: bottlenecks of 320 base channels, 16 times as wide."""
    config = transformers.ResNetConfig(
        embedding_size=320, hidden_sizes=[5120, 10240, 20480, 40960], depths=[3, 4, 23, 3]
    )
    config.num_labels = 1024
    model = _Classified(transformers.ResNetForImageClassification(config))
    images = torch.zeros(_ROWS, 3, 224, 224, device="cpu")
    return model, {"images": images, "labels": torch.zeros(_ROWS, dtype=torch.long, device="cpu")}


_MEGATRON = "Megatron-LM (arXiv:1909.08053, 2104.04473)"

MODELS = {
    one.name: one
    for one in (
        Large("GPT-2 1.5B", _gpt(48, 1600, 25), 512, ((1, 1), (2, 1)), _MEGATRON),
        Large("GPT-2 2.5B", _gpt(54, 1920, 20), 512, ((2, 1),), _MEGATRON),
        Large("GPT-2 8.3B", _gpt(72, 3072, 32), 512, ((8, 1), (4, 1)), _MEGATRON),
        Large("GPT-2 20B", _gpt(44, 6144, 64), 512, ((8, 1),), _MEGATRON),
        Large("GPT-2 39B", _gpt(48, 8192, 64), 512, ((8, 2), (4, 16)), f"{_MEGATRON}; Alpa's grid (arXiv:2201.12023)"),
        Large("Llama 70B", _llama_70b, 512, ((8, 8),), "Llama 2 in Megatron-LM's recipes"),
        Large("Mixtral 8x7B", _mixtral, 512, ((8, 4),), "Megatron-LM's recipes"),
        Large("T5 11B", _t5_11b, 512, ((8, 1),), "Megatron-LM's recipes"),
        Large("Wide-ResNet", _wide_resnet, 1536),
    )
}
