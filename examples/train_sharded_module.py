"""Trains a small language model of one's own, divided by a few annotations, in a plain loop over the backend `merak`.

    torchrun --nproc-per-node 4 examples/train_sharded_module.py            # rows over 2 ranks, layers over 2
    torchrun --nproc-per-node 4 examples/train_sharded_module.py --dp 1     # layers over 4 ranks

Only the first and the last matrix of each feed-forward layer and the attention's are annotated; how all else is divided
follows. Losses are those of one process. At the end torch's checkpoint of the parts is loaded into the plain model,
which has the same loss.

Nothing is downloaded: the text is CPython's own documentation, a token is a byte.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from common.corpus import drop_repeats, python_reference
from torch import nn
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from merak import sharding

VOCABULARY = 256
CLIP = 1.0


class Layer(nn.Module):
    """Causal attention, and a feed-forward part with a gate; both packed, as models have them nowadays."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.RMSNorm(width), nn.RMSNorm(width)])
        self.three, self.mix = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.gate_and_up, self.down = nn.Linear(width, 8 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[rows, tokens, width]` to the same."""
        query, key, value = (
            one.unflatten(-1, (self.heads, -1)).transpose(1, 2) for one in self.three(self.norms[0](x)).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.mix(mixed.transpose(1, 2).flatten(-2))
        gate, up = self.gate_and_up(self.norms[1](x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Model(nn.Module):
    """`model(tokens, targets)["loss"]`, of the bytes that follow."""

    def __init__(self, layers: int, width: int, block: int) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(VOCABULARY, width), nn.Embedding(block, width)
        self.layers = nn.Sequential(*(Layer(width, 4) for _ in range(layers)))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        """The mean loss of `[rows, tokens]`."""
        x = self.words(tokens) + self.positions.weight[: tokens.shape[1]]
        logits = self.head(self.norm(self.layers(x)))
        return {"loss": F.cross_entropy(logits.flatten(0, 1), targets.flatten())}


ANNOTATIONS = [
    sharding.batch("dp"),
    sharding.annotate("layers.*.three.weight", ("tp", None)),  # of all three parts, the heads
    sharding.annotate("layers.*.gate_and_up.weight", ("tp", None)),
]


def batch_of(text: torch.Tensor, step: int, rows: int, block: int) -> dict[str, torch.Tensor]:
    """The same on all ranks: each takes its part of it."""
    generator = torch.Generator().manual_seed(step)
    begins = torch.randint(len(text) - block - 1, (rows,), generator=generator)
    rows_of_text = torch.stack([text[begin : begin + block + 1] for begin in begins.tolist()]).long()
    return {"tokens": rows_of_text[:, :-1], "targets": rows_of_text[:, 1:]}


def train(options: argparse.Namespace) -> None:
    """On each rank."""
    ranks = dist.get_world_size()
    mesh = dist.init_device_mesh("cpu", (options.dp, ranks // options.dp), mesh_dim_names=("dp", "tp"))
    text = torch.frombuffer(bytearray("\n".join(drop_repeats(python_reference())), "utf-8"), dtype=torch.uint8)
    torch.manual_seed(options.seed)  # the same model on all ranks
    model = Model(options.layers, options.width, options.block)
    example = batch_of(text, 0, options.rows, options.block)
    shape = dict(zip(("dp", "tp"), mesh.shape, strict=True))
    completion = sharding.complete(model, example, mesh=shape, annotations=ANNOTATIONS)
    if dist.get_rank() == 0:
        print(completion.explain())
    divided = sharding.ShardedModule(model, completion, mesh)
    optimizer = torch.optim.AdamW(divided.parameters(), lr=options.learning_rate)
    for step in range(options.steps):
        loss = divided(**batch_of(text, step, options.rows, options.block))["loss"]
        optimizer.zero_grad()
        loss.backward()
        norm = divided.clip_grad_norm_(CLIP)
        optimizer.step()
        if dist.get_rank() == 0 and step % 10 == 0:
            print(f"step {step}: loss {float(loss.detach()):.4f}, norm {float(norm):.3f}", flush=True)
    check_checkpoint(divided, model, batch_of(text, options.steps, options.rows, options.block), options.checkpoint)


def check_checkpoint(
    divided: sharding.ShardedModule, model: Model, batch: dict[str, torch.Tensor], folder: Path
) -> None:
    """Saves the parts, and loads them into the plain model, which then has the same loss."""
    save(divided.state_dict(), checkpoint_id=folder)
    state = model.state_dict()
    load(state, checkpoint_id=folder)
    model.load_state_dict(state)
    with torch.no_grad():
        losses = [float(one(**batch)["loss"]) for one in (divided, model)]
    if not math.isclose(*losses, rel_tol=1e-5):
        raise SystemExit(f"the plain model's loss is {losses[1]}, and that of the parts {losses[0]}")
    if dist.get_rank() == 0:
        print(f"loaded into the plain model: loss {losses[1]:.4f}, as of the parts")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--dp", type=int, default=2, help="ranks among which rows are divided; layers over the others")
    for name, default in (("steps", 100), ("layers", 2), ("width", 128), ("block", 64), ("rows", 16), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--checkpoint", type=Path, default=Path("sharded-module-checkpoint"), help="a folder")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    dist.init_process_group("merak")
    if dist.get_world_size() % options.dp:
        parser.error(f"--dp {options.dp} does not divide {dist.get_world_size()} ranks")
    train(options)
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
