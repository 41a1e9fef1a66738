"""Trains a small vision transformer to read scikit-learn's handwritten digits, with layers that drop patches.

    python examples/train_vit_on_less.py                # and with --plain, what it is compared with

The tokens are 16 patches and the class's; of an unmodified Hugging Face ViT the middle layers process at first a few of
them. Both trainings end after as many layer-tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from common.digits import Digits, load_digits
from common.less_data import Batch, options_of, train

from merak.data import CurriculumSampler, KeepSchedule, RandomLTD

TOKENS, ROWS = 17, 32


def build_model(seed: int) -> torch.nn.Module:
    """Six layers, of which four drop patches of 2 x 2."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(seed)
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        num_labels=10,
        hidden_size=32,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=64,
        initializer_range=0.1,  # the library's 0.02 is for wider models
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return ViTForImageClassification(config)


def batches(digits: Digits, seed: int) -> Iterator[Batch]:
    """Without end, each image once before any comes twice."""
    for drawn in CurriculumSampler(samples=len(digits.labels), batch_size=ROWS, seed=seed):
        yield {"pixel_values": digits.images[list(drawn)], "labels": digits.labels[list(drawn)]}


def main() -> None:
    """Trains, and says how many held-out digits are read right."""
    options = options_of(str(__doc__), steps=300)
    digits, held_out = load_digits()
    model = build_model(options.seed)
    dropping = KeepSchedule(5, int(0.7 * options.steps), end=TOKENS, quantum=1)
    ltd = RandomLTD(model, schedule=KeepSchedule.constant(TOKENS) if options.plain else dropping, seed=options.seed)
    budget = options.steps * ROWS * TOKENS
    counters = train(model, ltd, batches(digits, options.seed), lambda batch: (ROWS, TOKENS), budget)
    model.eval()
    with torch.no_grad():
        right = model(pixel_values=held_out.images).logits.argmax(-1) == held_out.labels
    share = 100 * float(right.float().mean())
    print(f"{share:.1f} % of {len(right)} held-out digits read right, after {counters}")


if __name__ == "__main__":
    main()
