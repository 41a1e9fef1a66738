"""Tiny models with random weights, of many families, and batches for them.

Every batch is uneven: rows have different counts of targets that are not ignored, and masks with padding where the
model takes one. `targets` says how many targets a batch has, by the model's own definition, so that a plain loop over
micro-batches can weigh their mean losses.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

Batch = dict[str, Any]
VOCABULARY = 61
LENGTH = 9
HEADS, HIDDEN, LAYERS = 4, 32, 3


@dataclasses.dataclass(frozen=True)
class Specimen:
    """A kind of model.

    Attributes:
        build: makes a model with that probability of dropout.
        batch: makes a batch of so many rows from a seed; a negative seed stands for no dropout of targets.
        targets: how many targets of a batch count.
        loss_fn: for models that have no loss of their own.
        double: whether it is computed in fp64 throughout: the CPU has it, and the model has no fp32 of its own.
        dropout: whether it has dropout at all.
    """

    build: Callable[[float], nn.Module]
    batch: Callable[[int, int], Batch]
    targets: Callable[[Batch], int]
    loss_fn: Callable[[Any, Mapping[str, Any]], torch.Tensor] | None = None
    double: bool = True
    dropout: bool = True


def make(name: str, dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A model of the zoo in training mode, always with the same weights."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(7)
    model = ZOO[name].build(dropout)
    with torch.no_grad():
        for parameter in model.parameters():  # zeros and ones would hide mistakes
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.to(dtype).train()


def batch_of(name: str, rows: int, seed: int, dtype: torch.dtype = torch.float32) -> Batch:
    """A batch for a model of the zoo."""
    made = ZOO[name].batch(rows, seed)
    return {key: value.to(dtype) if value.is_floating_point() else value for key, value in made.items()}


# Batches -------------------------------------------------------------------------------------------------------------


def _random(rows: int, seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 * seed + rows)


def _text(rows: int, seed: int) -> Batch:
    """Ids, a mask with padding on the right, and labels: none for padding, nor for the begin of some rows."""
    random = _random(rows, seed)
    length = LENGTH - seed % 3  # batches differ in length
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=random)
    ends = torch.randint(length // 2, length + 1, (rows,), generator=random)
    starts = torch.randint(0, length // 2, (rows,), generator=random)
    position = torch.arange(length)
    mask = (position < ends[:, None]).long()
    labels = ids.masked_fill((mask == 0) | (position < starts[:, None]), -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _masked(rows: int, seed: int) -> Batch:
    """As `_text`, but only some tokens are targets, as in masked language modelling."""
    batch = _text(rows, seed)
    kept = torch.rand(batch["labels"].shape, generator=_random(rows, seed + 1)) < 0.4
    kept[:, 0] = True
    batch["labels"] = torch.where(kept, batch["input_ids"], -100)
    return batch


def _plain_text(rows: int, seed: int) -> Batch:
    """As `_text`, for models that take no mask. Of one length for all replicas of a step: models that go over positions
    one by one have another graph for each."""
    length = LENGTH - seed % 10 % 3
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=_random(rows, seed))
    starts = torch.randint(0, length // 2, (rows,), generator=_random(rows, seed + 1))
    return {"input_ids": ids, "labels": ids.masked_fill(torch.arange(length) < starts[:, None], -100)}


def _classified(rows: int, seed: int) -> Batch:
    """As `_text`, with a class for each."""
    return _text(rows, seed) | {"labels": torch.randint(0, 10, (rows,), generator=_random(rows, seed))}


def _translation(rows: int, seed: int) -> Batch:
    """A text, and another of another length as labels."""
    target = _text(rows, seed + 1)
    return _text(rows, seed) | {"labels": target["labels"]}


def _images(rows: int, seed: int) -> Batch:
    random = _random(rows, seed)
    pixels = torch.randn(rows, 3, 16, 16, generator=random)
    return {"pixel_values": pixels, "labels": torch.randint(0, 10, (rows,), generator=random)}


def _segments(rows: int, seed: int) -> Batch:
    """Images with a class for each pixel; many are ignored."""
    random = _random(rows, seed)
    labels = torch.randint(0, 5, (rows, 16, 16), generator=random)
    ignored = torch.rand((rows, 16, 16), generator=random) < torch.rand((rows, 1, 1), generator=random)
    return {"pixels": torch.randn(rows, 3, 16, 16, generator=random), "labels": labels.masked_fill(ignored, -100)}


def loss_in_double(output: Any, batch: Mapping[str, Any]) -> torch.Tensor:
    """The loss of models of language that continue a text: their own computes it in fp32, always."""
    return F.cross_entropy(output.logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())


def _not_ignored(batch: Batch) -> int:
    return int((batch["labels"] != -100).sum())


def after_shift(batch: Batch) -> int:
    return int((batch["labels"][:, 1:] != -100).sum())


# Models --------------------------------------------------------------------------------------------------------------


def _gpt2(dropout: float) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=16, n_embd=HIDDEN, n_layer=LAYERS, n_head=HEADS,
        resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def _bert(dropout: float) -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        intermediate_size=48, max_position_embeddings=16,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    return BertForMaskedLM(config)


def _albert(dropout: float) -> nn.Module:
    from transformers import AlbertConfig, AlbertForMaskedLM

    config = AlbertConfig(
        vocab_size=VOCABULARY, embedding_size=16, hidden_size=HIDDEN, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, intermediate_size=48, max_position_embeddings=16,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    return AlbertForMaskedLM(config)


def _t5(dropout: float) -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=VOCABULARY, d_model=HIDDEN, d_kv=8, d_ff=48, num_layers=2, num_heads=HEADS, dropout_rate=dropout,
        decoder_start_token_id=0, pad_token_id=0, tie_word_embeddings=True,
    )  # fmt: skip
    return T5ForConditionalGeneration(config)


def _bart(dropout: float) -> nn.Module:
    from transformers import BartConfig, BartForConditionalGeneration

    config = BartConfig(
        vocab_size=VOCABULARY, d_model=HIDDEN, encoder_layers=2, decoder_layers=2, encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=16,
        dropout=dropout, attention_dropout=dropout, activation_dropout=dropout,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=2,
    )  # fmt: skip
    return BartForConditionalGeneration(config)


def _opt(dropout: float) -> nn.Module:
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS, ffn_dim=48,
        max_position_embeddings=16, word_embed_proj_dim=16, dropout=dropout, attention_dropout=dropout,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return OPTForCausalLM(config)


def _bloom(dropout: float) -> nn.Module:
    from transformers import BloomConfig, BloomForCausalLM

    config = BloomConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, n_layer=LAYERS, n_head=HEADS,
        hidden_dropout=dropout, attention_dropout=dropout, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return BloomForCausalLM(config)


def _neox(dropout: float) -> nn.Module:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        intermediate_size=48, max_position_embeddings=16, hidden_dropout=dropout, attention_dropout=dropout,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return GPTNeoXForCausalLM(config)


def _llama_like(kind: str, dropout: float, **more: Any) -> nn.Module:
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=48, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=2, max_position_embeddings=16, attention_dropout=dropout,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, **more,
    )  # fmt: skip
    model: nn.Module = getattr(transformers, f"{kind}ForCausalLM")(config)
    return model


def _llama(dropout: float) -> nn.Module:
    return _llama_like("Llama", dropout)


def _qwen3(dropout: float) -> nn.Module:
    return _llama_like("Qwen3", dropout, head_dim=8, tie_word_embeddings=True)


def _mixtral(dropout: float) -> nn.Module:
    return _llama_like("Mixtral", dropout, num_local_experts=4, num_experts_per_tok=2)


def _gemma3(dropout: float) -> nn.Module:
    """Of two kinds of layers, whose masks it makes in an order that differs from process to process."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=48, num_hidden_layers=LAYERS, head_dim=8,
        num_attention_heads=HEADS, num_key_value_heads=2, max_position_embeddings=16, attention_dropout=dropout,
        sliding_window=4, layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return Gemma3ForCausalLM(config)


def _modernbert(dropout: float) -> nn.Module:
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    config = ModernBertConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=48, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, max_position_embeddings=16, local_attention=4,
        embedding_dropout=dropout, mlp_dropout=dropout, attention_dropout=dropout, classifier_dropout=dropout,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
    )  # fmt: skip
    return ModernBertForMaskedLM(config)


def _mamba(dropout: float) -> nn.Module:
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, state_size=4, pad_token_id=0, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    return MambaForCausalLM(config)


def _xlnet(dropout: float) -> nn.Module:
    from transformers import XLNetConfig, XLNetForSequenceClassification

    config = XLNetConfig(
        vocab_size=VOCABULARY, d_model=HIDDEN, n_layer=LAYERS, n_head=HEADS, d_inner=48, dropout=dropout,
        summary_last_dropout=dropout, num_labels=10, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return XLNetForSequenceClassification(config)


def _vit(dropout: float) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=48, image_size=16,
        patch_size=4, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, num_labels=10,
    )  # fmt: skip
    return ViTForImageClassification(config)


def _swin(dropout: float) -> nn.Module:
    from transformers import SwinConfig, SwinForImageClassification

    config = SwinConfig(
        image_size=16, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=2,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, drop_path_rate=dropout, num_labels=10,
    )  # fmt: skip
    return SwinForImageClassification(config)


def _resnet(dropout: float) -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[2, 2], layer_type="basic", num_labels=10)
    return ResNetForImageClassification(config)


class UNet(nn.Module):
    """Long skips: what each level makes on the way down is needed again on the way up."""

    def __init__(self, dropout: float, levels: int = 3, width: int = 8) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in range(levels))
        self.up = nn.ModuleList(nn.Conv2d(2 * width, width, 3, padding=1) for _ in range(levels))
        self.norms = nn.ModuleList(nn.GroupNorm(2, width) for _ in range(levels))
        self.leave = nn.Conv2d(width, 5, 1)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, pixels: torch.Tensor, labels: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        """Scores by class and pixel, and those of half the size."""
        x = self.enter(pixels)
        skips = []
        for down in self.down:
            skips.append(x)
            x = F.gelu(down(x))
        coarse = x
        for up, norm in zip(self.up, self.norms, strict=True):
            x = F.interpolate(x, scale_factor=2.0)
            x = self.dropout(F.gelu(norm(up(torch.cat([x, skips.pop()], 1)))))
        return self.leave(x), coarse


def _pixel_loss(output: Any, batch: Mapping[str, Any]) -> torch.Tensor:
    return F.cross_entropy(output[0], batch["labels"])


ZOO: dict[str, Specimen] = {
    "gpt2": Specimen(_gpt2, _text, after_shift),
    "bert": Specimen(_bert, _masked, _not_ignored),
    "t5": Specimen(_t5, _translation, _not_ignored),
    "vit": Specimen(_vit, _images, _not_ignored),
    "swin": Specimen(_swin, _images, _not_ignored),
    "llama": Specimen(_llama, _text, after_shift),
    "qwen3": Specimen(_qwen3, _text, after_shift),
    "mixtral": Specimen(_mixtral, _text, after_shift, double=False),
    "albert": Specimen(_albert, _masked, _not_ignored),
    "opt": Specimen(_opt, _text, after_shift),
    "bloom": Specimen(_bloom, _text, after_shift),
    "resnet": Specimen(_resnet, _images, _not_ignored, dropout=False),
    "unet": Specimen(UNet, _segments, _not_ignored, loss_fn=_pixel_loss),
    "neox": Specimen(_neox, _text, after_shift),
    "bart": Specimen(_bart, _translation, _not_ignored),
    "gemma3": Specimen(_gemma3, _text, after_shift, double=False),
    "modernbert": Specimen(_modernbert, _masked, _not_ignored, double=False),
    "mamba": Specimen(_mamba, _plain_text, after_shift, double=False, dropout=False),
    "xlnet": Specimen(_xlnet, _classified, _not_ignored),
}
