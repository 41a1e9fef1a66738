"""Trains a small Llama on half of the ranks and serves it on the other half, over the backend `merak`.

    torchrun --nproc-per-node 8 examples/train_and_serve.py

The *trainer* is a mesh of (data parallel 2) x (tensor parallel 2): FSDP2 around tensor parallelism, so that each rank
has a quarter of most weights. The *generator* is a mesh of four other ranks, tensor parallel. After every step the
trainer's weights of that step travel to the generator, by `merak.reshard_state_dict`, while the trainer computes the
next step and the generator writes with the weights that it has. At the end both compare digests of whole weights: they
are the same, bit for bit.

Nothing is downloaded: the model is a Hugging Face configuration with random weights, the text is CPython's own
documentation, a token is a byte.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from common.corpus import drop_repeats, python_reference
from common.options import UsageError
from common.program import check_extras, exit_status
from common.world import World, join
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import merak

RANKS = 8
VOCABULARY = 256
PROMPT = "The with statement is used to"


@dataclass(frozen=True)
class Options:
    """The command line."""

    steps: int
    layers: int
    width: int
    block: int
    batch: int
    characters: int


def build_model(options: Options) -> nn.Module:
    """The same random weights on all ranks."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=options.width,
        intermediate_size=3 * options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
    )
    return LlamaForCausalLM(config)


def make_tensor_parallel(model: nn.Module, mesh: DeviceMesh) -> None:
    """Attention by heads and the feed-forward layers by columns, then rows (Megatron's way)."""
    columns, rows = ColwiseParallel(), RowwiseParallel()
    by_name = {"q_proj": columns, "k_proj": columns, "v_proj": columns, "gate_proj": columns, "up_proj": columns}
    by_name |= {"o_proj": rows, "down_proj": rows}
    plan = {
        name: by_name[name.rpartition(".")[2]]
        for name, _ in model.named_modules()
        if name.rpartition(".")[2] in by_name
    }
    parallelize_module(model, mesh, plan)


def sentences(options: Options) -> torch.Tensor:
    """The text as rows of tokens, int64 [rows, block + 1]."""
    text = "\n\n".join(drop_repeats(python_reference())).encode(errors="replace")
    rows = len(text) // (options.block + 1)
    tokens = torch.frombuffer(bytearray(text[: rows * (options.block + 1)]), dtype=torch.uint8)
    return tokens.view(rows, options.block + 1).long()


def digest(model: nn.Module) -> str:
    """Of all whole weights, in the order of their names; all ranks of the model's mesh call it."""
    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        total.update(name.encode() + whole.numpy().tobytes())
    return total.hexdigest()


class Trainer:
    """A rank of the training mesh."""

    def __init__(self, options: Options, mesh: DeviceMesh) -> None:
        self.options, self.place = options, mesh.get_local_rank("dp")
        self.model = build_model(options)
        make_tensor_parallel(self.model, mesh["tp"])
        for layer in self.model.model.layers:  # type: ignore[union-attr]
            fully_shard(layer, mesh=mesh["dp"])
        fully_shard(self.model, mesh=mesh["dp"])
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-3)
        self.rows = sentences(options)
        self.random = torch.Generator().manual_seed(1)

    def step(self) -> float:
        """One step; the loss of this replica's part of the batch."""
        drawn = torch.randint(len(self.rows), (2, self.options.batch), generator=self.random)
        tokens = self.rows[drawn[self.place]]
        logits = self.model(input_ids=tokens[:, :-1]).logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())

    def weights(self) -> dict[str, torch.Tensor]:
        """As they are now: copies, so that training goes on while they travel."""
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}


class Generator:
    """A rank of the serving mesh. New weights arrive in a second set, and are used when all of them are there."""

    def __init__(self, options: Options, mesh: DeviceMesh) -> None:
        self.options = options
        self.model = build_model(options).eval()
        make_tensor_parallel(self.model, mesh)
        self.arriving = {name: torch.empty_like(tensor) for name, tensor in self.model.state_dict().items()}

    @torch.no_grad()
    def use_new_weights(self) -> None:
        for name, tensor in self.model.state_dict().items():
            tensor.copy_(self.arriving[name])

    @torch.no_grad()
    def write(self) -> str:
        """The likeliest characters after the prompt."""
        tokens = torch.tensor([list(PROMPT.encode())])
        for _ in range(self.options.characters):
            logits = self.model(input_ids=tokens[:, -self.options.block :], use_cache=False).logits
            tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], dim=1)
        return bytes(tokens[0].tolist()).decode(errors="replace")


def check_same(world: World, model: nn.Module, step: int) -> None:
    """That trainer and generator have the same weights.

    Raises:
        RuntimeError: they have not.
    """
    own = torch.frombuffer(bytearray(bytes.fromhex(digest(model))), dtype=torch.uint8)
    everyones = [torch.empty_like(own) for _ in range(world.size)]
    dist.all_gather(everyones, own)
    if any(not torch.equal(other, own) for other in everyones):
        raise RuntimeError(f"after step {step} the generator has other weights than the trainer")


def train_and_serve(options: Options, world: World) -> None:
    """The job of this rank."""
    if world.size != RANKS:
        raise UsageError(f"this runs on {RANKS} ranks: torchrun --nproc-per-node {RANKS} examples/train_and_serve.py")
    # All ranks make both meshes, whose groups torch makes with everyone.
    trainers = DeviceMesh("cpu", torch.arange(4).view(2, 2), mesh_dim_names=("dp", "tp"))
    generators = DeviceMesh("cpu", torch.arange(4, 8), mesh_dim_names=("tp",))
    here: Trainer | Generator = Trainer(options, trainers) if world.rank < 4 else Generator(options, generators)
    if isinstance(here, Trainer):
        run_trainer(here, world)
    else:
        run_generator(here, world)
    check_same(world, here.model, options.steps)
    world.say("the generator has the trainer's weights, bit for bit")


def run_trainer(trainer: Trainer, world: World) -> None:
    work = None
    for step in range(1, trainer.options.steps + 1):
        start = time.perf_counter()
        loss = trainer.step()
        computed = time.perf_counter()
        if work is not None:
            work.wait()
        waited = time.perf_counter() - computed
        work = merak.reshard_state_dict(trainer.weights(), None, async_op=True)
        if step == 1 or step % 20 == 0:
            world.say(
                f"step {step:4}: loss {loss:.3f}; {1e3 * (computed - start):.0f} ms, then {1e3 * waited:.0f} ms until "
                "the weights of the step before had all left"
            )
    assert work is not None
    work.wait()


def run_generator(generator: Generator, world: World) -> None:
    shows = world.rank == RANKS // 2
    for step in range(1, generator.options.steps + 1):
        work = merak.reshard_state_dict(None, generator.arriving, async_op=True)
        if step == 1 or step % 20 == 0:
            text = generator.write()  # while the weights of this step arrive
            if shows:
                print(f"with the weights of step {step - 1}: {text!r}", flush=True)
        work.wait()
        generator.use_new_weights()


def parse(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    add = parser.add_argument
    add("--steps", type=int, default=100, help="optimizer steps, each followed by a transfer (default 100)")
    add("--layers", type=int, default=2, help="of the model (default 2)")
    add("--width", type=int, default=128, help="numbers in a hidden state (default 128)")
    add("--block", type=int, default=64, help="tokens in a sequence (default 64)")
    add("--batch", type=int, default=8, help="sequences of each replica in a step (default 8)")
    add("--characters", type=int, default=40, help="how many the generator writes (default 40)")
    options = Options(**vars(parser.parse_args(arguments)))
    if options.steps < 1 or options.width % 8:
        raise UsageError("--steps is at least 1, and --width a multiple of 8.")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    def work() -> None:
        options = parse(arguments)
        check_extras(transformers="hf")
        torch.set_num_threads(1)
        with join("merak", timedelta(minutes=5)) as world:
            train_and_serve(options, world)

    return exit_status(work, "interrupted")


if __name__ == "__main__":
    sys.exit(main())
