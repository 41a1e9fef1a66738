"""The model: a Hugging Face GPT-2 of a small configuration with random weights."""

from __future__ import annotations

import torch
from torch import nn

from merak import _extras

from .options import Options


def build_model(options: Options, vocabulary: int) -> nn.Module:
    """A GPT-2 whose weights depend on the seed alone, so that all ranks build the same one.

    Called as `model(input_ids=..., labels=...)`, both int64 [sequences, tokens], it returns an object with `.loss`, the
    mean over the targets, and `.logits`, float32 [sequences, tokens, vocabulary].

    Args:
        vocabulary: the tokens that the tokenizer knows; END_OF_TEXT is token 0.
    """
    transformers = _extras.require("transformers", extra="hf")
    config = transformers.GPT2Config(
        vocab_size=vocabulary,
        n_positions=options.block,
        n_embd=options.width,
        n_layer=options.layers,
        n_head=options.heads,
        resid_pdrop=options.dropout,
        embd_pdrop=options.dropout,
        attn_pdrop=options.dropout,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,  # keys and values of earlier tokens are kept for generating text only
    )
    torch.manual_seed(options.seed)
    model = transformers.GPT2LMHeadModel(config)
    model.loss_type = "ForCausalLM"  # the library cannot derive it from this class's name, and would warn
    assert isinstance(model, nn.Module)
    return model


def count_parameters(model: nn.Module) -> int:
    """The numbers that are trained; a matrix used in two places (GPT-2's embedding is) counts once."""
    return sum(parameter.numel() for parameter in model.parameters())
