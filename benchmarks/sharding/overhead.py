"""What a step of a divided model takes beside its computing: merak's lowered graph, and DTensor's `parallelize_module`.

    torchrun --nproc-per-node 2 -m benchmarks.sharding.overhead [--layers 4] [--width 32] [--repeats 60] [--realtime]

The model is some layers of norm, two products and a residual sum, so small that a step is nearly all overhead. Both are
divided as Megatron-LM does, over all ranks, and do the same two all-reduces a layer: DTensor's by Gloo, ours by merak,
over this machine's loopback. They take turns, forward and backward; gradients are compared once. Printed too is a step
of the plain model on one rank, which computes more and communicates nothing.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from benchmarks.collectives.priority import before_others
from benchmarks.pipeline.overhead import take_turns
from merak import sharding

WANTED = 0.5


class Layer(nn.Module):
    """Norm, two products, a sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of the same shape."""
        y: torch.Tensor = x + self.down(nn.functional.gelu(self.up(self.norm(x))))
        return y


class Model(nn.Module):
    """Layers, and the mean square of what comes out."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(Layer(width) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss."""
        for layer in self.layers:
            x = layer(x)
        return {"loss": x.square().mean()}


def by_dtensor(model: Model) -> Model:
    """DTensor's, over Gloo."""
    group = dist.new_group(backend="gloo")
    mesh = dist.DeviceMesh.from_group(group, "cpu")
    divided = copy.deepcopy(model)
    for layer in divided.layers:
        parallelize_module(layer, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    return divided


def by_merak(model: Model, x: torch.Tensor) -> sharding.ShardedModule:
    """Ours."""
    mesh = dist.init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("tp",))
    completion = sharding.complete(
        model, {"x": x}, mesh={"tp": dist.get_world_size()}, annotations=[sharding.megatron("tp")]
    )
    return sharding.ShardedModule(model, completion, mesh)


def check(ways: dict[str, nn.Module], x: torch.Tensor) -> None:
    """Both have the plain model's gradients."""
    expected = {name: one.grad for name, one in ways["plain, one rank"].named_parameters()}
    for way in ("DTensor, Gloo", "merak"):
        for name, parameter in ways[way].named_parameters():
            gradient = parameter.grad
            if isinstance(gradient, DTensor):
                gradient = gradient.full_tensor()
            module = ways[way]
            if isinstance(module, sharding.ShardedModule):
                gradient = module.whole_gradient(name)
            torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--realtime", action="store_true", help="goes before this machine's other programs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("merak")
    x = torch.randn(options.rows, 8, options.width, generator=torch.Generator().manual_seed(1))
    model = Model(options.layers, options.width)
    ways = {"plain, one rank": model, "DTensor, Gloo": by_dtensor(model), "merak": by_merak(model, x)}

    def step_of(module: nn.Module) -> Callable[[], None]:
        def step() -> None:
            module.zero_grad()
            module(x=x)["loss"].backward()

        return step

    steps = {name: step_of(module) for name, module in ways.items()}
    for step in steps.values():
        step()
    check(ways, x)
    take_turns(steps, 5, dist.barrier)
    with before_others(options.realtime):
        times = take_turns(steps, options.repeats, dist.barrier)
    if dist.get_rank() == 0:
        report(dict(zip(steps, times, strict=True)), options.layers)
    dist.destroy_process_group()


def report(times: dict[str, np.ndarray], layers: int) -> None:
    """Prints medians, and what each way adds to the plain step."""
    plain = float(np.median(times["plain, one rank"]))
    for name, row in times.items():
        added = (np.median(row) - plain) / layers
        print(f"{name:16} {np.median(row) * 1e3:8.3f} ms a step, {added * 1e6:8.1f} us a layer more than plain")
    ratio = (np.median(times["merak"]) - plain) / (np.median(times["DTensor, Gloo"]) - plain)
    print(f"ours adds {ratio:.2f} of what DTensor adds; wanted at most {WANTED}: {'yes' if ratio <= WANTED else 'NO'}")


if __name__ == "__main__":
    main()
