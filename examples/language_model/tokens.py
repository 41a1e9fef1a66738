"""From text to sequences of token ids: a byte-level BPE, trained on the training texts only.

Byte-level means that the 256 bytes are tokens themselves, so every text can be written in the vocabulary.
Rank 0 trains the BPE and the others receive its JSON (`World.share_text`): the ids agree by construction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from common.options import UsageError

from merak import _extras

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(texts: list[str], vocabulary: int) -> str:
    """A byte-level BPE of at most `vocabulary` tokens, token 0 being END_OF_TEXT, as the JSON of `tokenizers`."""
    tokenizers = _extras.require("tokenizers", extra="hf")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return str(tokenizer.to_str())


def read_tokenizer(json: str) -> Tokenizer:
    """The tokenizer that `train_tokenizer` described."""
    tokenizers = _extras.require("tokenizers", extra="hf")
    tokenizer: Tokenizer = tokenizers.Tokenizer.from_str(json)
    return tokenizer


def sequences(tokenizer: Tokenizer, texts: list[str], block: int) -> torch.Tensor:
    """The texts one after another, each closed by END_OF_TEXT, cut into rows of `block` tokens.

    Returns:
        int64 [rows, block]; the tokens after the last full row are left out.

    Raises:
        UsageError: the texts do not fill one row.
    """
    end = tokenizer.token_to_id(END_OF_TEXT)
    stream = [token for text in texts for token in (*tokenizer.encode(text).ids, end)]
    rows = len(stream) // block
    if rows == 0:
        raise UsageError(f"{len(stream)} tokens do not fill one sequence of {block}; choose a smaller --block.")
    return torch.tensor(stream[: rows * block], dtype=torch.int64).view(rows, block)
