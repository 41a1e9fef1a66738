"""Trains a U-Net to take the noise out of handwritten digits, in four pipeline stages.

    torchrun --nproc-per-node 4 examples/train_unet.py

Four ranks are one pipeline; fewer ranks have several of the four stages each. What it shows:

- A model of one's own, plain PyTorch, with a loss of one's own: `loss_fn` takes the model's output and the batch.
- *Long skips*: what each level makes on its way down is needed again on the way up, in another stage. Such values, and
  their gradients, travel straight between the two stages, and not through those in between.
- Stages cut by hand: `cuts` names the modules that they begin with. Without it the stages would be those that take
  least time over a network of 1 Gbit/s, which for so small a model means to send as little as possible.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import torch
from common.digits import load_digits
from common.pipelines import Batch, Options, draw, make_plan, mine, part, run, skips, train_steps
from common.world import World
from torch import nn
from torch.nn import functional as F

import merak

NOISE = 0.5  # standard deviation; images lie between 0 and 1
LEVELS = 3  # 8 x 8 halves three times
CUTS = ("down.1", "up.0", "up.2")  # modules that begin a stage
STAGES = len(CUTS) + 1


class Block(nn.Module):
    """Two convolutions."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.GroupNorm(4, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of the same size, with `channels` channels."""
        return F.gelu(self.norm(self.second(F.gelu(self.first(x)))))


class Up(nn.Module):
    """Doubles an image, and joins to it what had that size on the way down."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = Block(2 * channels, channels)

    def forward(self, x: torch.Tensor, skipped: torch.Tensor) -> torch.Tensor:
        """Of the size of `skipped`."""
        return self.block(torch.cat([F.interpolate(x, scale_factor=2.0), skipped], 1))


class UNet(nn.Module):
    """Down level by level, and up again."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(Block(width if level else 1, width) for level in range(LEVELS))
        self.bottom = Block(width, width)
        self.up = nn.ModuleList(Up(width) for _ in range(LEVELS))
        self.leave = nn.Conv2d(width, 1, 1)

    def forward(self, noisy: torch.Tensor, clean: torch.Tensor | None = None) -> torch.Tensor:
        """The images without noise, [rows, 1, 8, 8]. `clean` is in the batch for the loss alone."""
        x, skipped = noisy, []
        for block in self.down:
            skipped.append(block(x))
            x = F.avg_pool2d(skipped[-1], 2)
        x = self.bottom(x)
        for up in self.up:
            x = up(x, skipped.pop())
        return self.leave(x)


def squared_error(output: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The mean over pixels."""
    return F.mse_loss(output, batch["clean"])


def add_noise(images: torch.Tensor, random: torch.Generator) -> Batch:
    """A batch of images to clean."""
    return {"noisy": images + NOISE * torch.randn(images.shape, generator=random), "clean": images}


def train(options: Options, world: World) -> None:
    """The whole job on this rank."""
    digits, held_out = load_digits()
    plan = make_plan(options, world, pp=STAGES, stages=STAGES, cuts=CUTS, schedule="interleaved")

    def batch(step: int) -> Batch:
        chosen, random = draw(options, step, len(digits.images))
        return add_noise(digits.images[chosen], random)

    torch.manual_seed(options.seed)
    engine = merak.parallelize(
        UNet(options.width),
        plan,
        part(batch(0), 0, plan.dp),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=options.learning_rate),
        loss_fn=squared_error,
    )
    world.say(engine.explain())
    world.say(skips(engine))
    train_steps(engine, options, world, batch)
    exam = add_noise(held_out.images, torch.Generator().manual_seed(options.seed))
    error = engine.eval_step(mine(exam, engine), output=False).loss
    world.say(f"held-out squared error {error:.5f}; of the noisy images {NOISE**2:.5f}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line, the process's own unless `arguments` are given; the exit status."""
    return run(str(__doc__), train, arguments, sklearn="examples")


if __name__ == "__main__":
    sys.exit(main())
