"""Trains a small vision transformer to read scikit-learn's handwritten digits, data parallel and pipelined.

    torchrun --nproc-per-node 4 examples/train_digits.py

Four ranks are two replicas of two stages. What it shows:

- Another kind of model, captured and cut by the same call: an unmodified Hugging Face ViT, on images of 8 x 8.
- Evaluation: `engine.eval_step` runs the held-out images through the same stages, in evaluation mode, and gives the
  model's output on every rank, from which the accuracy follows.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from common.digits import Digits, load_digits
from common.pipelines import Batch, Options, draw, make_plan, mine, part, run, train_steps
from common.world import World
from torch import nn

import merak


def build_model(options: Options) -> nn.Module:
    """The same random weights on all ranks. Sixteen patches of 2 x 2 are its tokens."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(options.seed)
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        num_labels=10,
        hidden_size=options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=4,
        intermediate_size=2 * options.width,
        initializer_range=options.width**-0.5,  # the library's 0.02 is for wider models
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return ViTForImageClassification(config)


def as_batch(digits: Digits) -> Batch:
    """As the model takes them."""
    return {"pixel_values": digits.images, "labels": digits.labels}


def accuracy(engine: merak.engine.Engine, digits: Digits, world: World) -> float:
    """The share that is read right. Ranks of one replica have the same output, so counts over all ranks will do."""
    own = mine(as_batch(digits), engine)
    right = engine.eval_step(own).output.logits.argmax(-1) == own["labels"]
    correct, count = world.sum([float(right.sum()), len(right)])
    return correct / count


def train(options: Options, world: World) -> None:
    """The whole job on this rank."""
    digits, held_out = load_digits()
    plan = make_plan(options, world, pp=2)

    def batch(step: int) -> Batch:
        chosen, _ = draw(options, step, len(digits.labels))
        return as_batch(Digits(digits.images[chosen], digits.labels[chosen]))

    engine = merak.parallelize(
        build_model(options),
        plan,
        part(batch(0), 0, plan.dp),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=options.learning_rate),
        clip=1.0,
    )
    world.say(engine.explain())
    train_steps(engine, options, world, batch)
    world.say(f"{100 * accuracy(engine, held_out, world):.1f} % of {len(held_out.labels)} held-out digits read right")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line, the process's own unless `arguments` are given; the exit status."""
    return run(str(__doc__), train, arguments, transformers="hf", sklearn="examples")


if __name__ == "__main__":
    sys.exit(main())
