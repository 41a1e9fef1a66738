"""Memory of a rank in a training step, predicted and measured.

    .venv/bin/python -m benchmarks.planner.memory [--models gpt2 vit] [--output FILE]

Two ranks, processes of this machine, run steps of plans. Measured is the most that tensors' storages take at any time
of a step, counted storage by storage as operations make them and as they are freed; what libraries use within an
operation is not in it. Predicted is the most of any time by `merak.planner`. Shown is the rank with the larger error.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import socket
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import merak
from benchmarks.planner.prediction import MODELS, batch_of, plan_in_words, plans, predicted
from merak.planner import Cluster, Plan, Prices, Workload

CHECKOUT = Path(__file__).resolve().parents[2]
RANKS = 2
SHOWN = ("gpt2", "vit")
PLAIN = (torch.Tensor, torch.nn.Parameter)


class LiveStorage(TorchDispatchMode):
    """Counts bytes of the storages that are alive.

    Attributes:
        bytes, peak: now, and the most so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.peak = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Any operation; behind it, its results."""
        result = func(*args, **(kwargs or {}))
        self.note(result)
        return result

    def note(self, tensors: Any) -> None:
        """Counts the storages of these that are not counted yet."""
        for one in tree_leaves(tensors):
            if type(one) in PLAIN and one.device.type == "cpu":
                storage = one.untyped_storage()
                key = storage._cdata
                if key not in self._known and storage.nbytes():
                    self._known[key] = storage.nbytes()
                    self.bytes += storage.nbytes()
                    self.peak = max(self.peak, self.bytes)
                    weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.bytes -= self._known.pop(key, 0)


def tensors_alive() -> list[torch.Tensor]:
    """All that Python knows of."""
    gc.collect()
    found = [one for one in gc.get_objects() if type(one) in PLAIN]
    return [one for one in found if one.device.type == "cpu"]


def measured_bytes(name: str, plan: Plan) -> int:
    """The peak of a step, of this rank."""
    before = [
        one.untyped_storage() for one in tensors_alive()
    ]  # of earlier plans; kept, so that nothing takes its place
    torch.manual_seed(1)
    model, batch = MODELS[name]()
    model = model.to("meta")  # else a rank also has what others train, as it was
    if isinstance(model, transformers.PreTrainedModel):
        model.tie_weights()
    mine = batch_of(batch, plan, dist.get_rank())
    engine = merak.parallelize(model, plan, mine, optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-4))
    del model, batch
    for _ in range(2):
        engine.train_step(mine)
    counter = LiveStorage()
    known = {storage._cdata for storage in before}
    counter.note([one for one in tensors_alive() if one.untyped_storage()._cdata not in known])
    counter.note([state for group in engine.optimizer.state.values() for state in group.values()])
    with counter:
        engine.train_step(mine)
    return counter.peak


def work(options: argparse.Namespace) -> None:
    """One rank. Rank 0 prints a JSON line a plan."""
    torch.set_num_threads(1)
    dist.init_process_group("merak")
    cluster = Cluster.uniform("CPU core", RANKS, 1, between="1Gbit/s")
    for name in options.models:
        model, batch = MODELS[name]()
        prices = Prices(Workload(model, batch), cluster)
        del model, batch
        for plan in plans():
            cut, prediction = predicted(plan, prices)
            nbytes = prediction.memory_bytes[plan.place_of(dist.get_rank())[0]]
            both = torch.tensor([nbytes, measured_bytes(name, cut)], dtype=torch.float64)
            everyones = [torch.empty_like(both) for _ in range(RANKS)]
            dist.all_gather(everyones, both)
            if dist.get_rank() == 0:
                line = {"model": name, "plan": dataclasses.asdict(plan), "ranks": [one.tolist() for one in everyones]}
                print(json.dumps(line), flush=True)
    dist.destroy_process_group()


def lines_of_ranks(models: list[str]) -> Iterator[dict[str, Any]]:
    """Starts the ranks, and gives what rank 0 prints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.planner.memory", "--rank", "--models", *models]
    common = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(RANKS)}
    processes = [
        subprocess.Popen(command, cwd=CHECKOUT, env=common | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(RANKS)
    ]
    assert processes[0].stdout is not None
    yield from (json.loads(line) for line in processes[0].stdout if line.startswith("{"))
    for process in processes:
        if process.wait():
            raise SystemExit(f"a rank ended with {process.returncode}")


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=SHOWN, default=list(SHOWN), metavar="NAME")
    parser.add_argument("--output", type=Path, help="write the lines there, as JSON")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        work(options)
        return 0
    lines = []
    errors = []
    for line in lines_of_ranks(options.models):
        expected, measured = max(line["ranks"], key=lambda pair: abs(pair[0] / pair[1] - 1))
        errors += [one / other - 1 for one, other in line["ranks"]]
        lines.append(line)
        print(
            f"{line['model']:>6} {plan_in_words(line['plan']):<52} {expected / 1e6:8.2f} MB {measured / 1e6:8.2f} MB "
            f"{expected / measured - 1:+7.1%}",
            flush=True,
        )
    print(f"{len(errors)} ranks: median error {np.median(np.abs(errors)):.1%}, largest {np.max(np.abs(errors)):.1%}")
    if options.output:
        options.output.write_text(json.dumps(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
