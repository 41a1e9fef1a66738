"""What the executor adds to each computing action: beside the same graphs in a loop written by hand.

    python -m benchmarks.pipeline.overhead [--stages 4] [--microbatches 8] [--repeats 60] [--realtime] [--profile]
    torchrun --nproc-per-node 2 -m benchmarks.pipeline.overhead        # for information: what messages take

A tiny GPT-2 with random weights is captured and cut. In one process all stages are on one rank, so that no message is
involved: the loop (plain_loop.py) and `merak.pipeline.executor` do the same forwards and backwards in the same order,
and take turns. What is printed is the difference of their steps, a computing action. Compute is real here, and small,
so that it does not drown the difference.

Under torchrun stages are dealt to the ranks, which send over this machine's loopback; printed is the time that a rank
spends in actions of each kind.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import os
import pstats
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.collectives.priority import before_others
from merak.graph.losses import scales
from merak.graph.prepare import Prepared, prepare
from merak.graph.stages import Cuttable, Stage
from merak.pipeline.executor import Executor
from merak.pipeline.messages import Messages
from merak.pipeline.microbatches import MicroBatch, bind, split
from merak.pipeline.schedule import Schedule
from merak.pipeline.stage_runner import StageRunner

from .plain_loop import PlainLoop

WANTED_US = 100
VOCABULARY, TOKENS, HIDDEN = 64, 8, 32
CPU = torch.device("cpu")


class Pipeline:
    """A model, its stages and micro-batches, and the executor of this rank."""

    def __init__(self, stages: int, microbatches: int, layers: int, group: dist.ProcessGroup | None) -> None:
        rank, ranks = (group.rank(), group.size()) if group else (0, 1)
        model, batch = _model(layers), _batch(microbatches)
        self.prepared = prepare(model, split(batch, microbatches)[0])
        self.stages = self.prepared.cuttable.cut(_boundaries(self.prepared.cuttable, stages))
        self.parameters = dict(model.named_parameters())
        self.tensors = _tensors(self.prepared, model)
        self.microbatches = _bound(self.prepared, batch, microbatches)
        edges = sorted({(v.producer, c, v.has_gradient) for s in self.stages for v in s.sent for c in v.consumers})
        kind = "interleaved" if stages > ranks else "1f1b"
        self.schedule = Schedule.make(kind, stages=stages, ranks=ranks, microbatches=microbatches, edges=edges)
        self.runners = {i: StageRunner(self.stages[i], self.tensors) for i in self.schedule.stages_of(rank)}
        messages: Any = Messages(self.stages, self.schedule.stage_to_rank, group, CPU)  # type: ignore[arg-type]
        self.executor = Executor(self.schedule, rank, self.runners, messages, reduce=lambda stage: None)
        self.loss = self.prepared.captured.loss

    def step(self) -> None:
        self.executor.step(self.microbatches, keep=[], loss=self.loss)

    def plain(self) -> PlainLoop:
        """The loop, in the executor's order."""
        order = [(a.stage, a.kind, a.microbatch) for a in self.schedule.actions(0) if a.kind in "FB"]
        loss = next(stage.outputs[self.loss] for stage in self.stages if self.loss in stage.outputs)
        return PlainLoop(self.stages, self.tensors, self.microbatches, order, loss)

    def take_gradients(self) -> dict[str, torch.Tensor]:
        found = {name: p.grad for name, p in self.parameters.items() if p.grad is not None}
        for parameter in self.parameters.values():
            parameter.grad = None
        return found


def _model(layers: int) -> torch.nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": VOCABULARY, "n_positions": TOKENS, "n_embd": HIDDEN, "n_head": 4}
    tokens: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2}
    no_dropout: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = GPT2Config(n_layer=layers, use_cache=False, **sizes, **tokens, **no_dropout)
    model: torch.nn.Module = GPT2LMHeadModel(config)
    return model.train()


def _batch(microbatches: int) -> dict[str, torch.Tensor]:
    tokens = torch.randint(VOCABULARY, (2 * microbatches, TOKENS))
    return {"input_ids": tokens, "labels": tokens}


def _boundaries(cuttable: Cuttable, stages: int) -> list[int]:
    """About evenly, where the fewest values cross."""
    length = len(cuttable.trunk)
    reach = max(1, length // (4 * stages))
    found = []
    for stage in range(1, stages):
        middle = length * stage // stages
        near = [at for at in range(middle - reach, middle + reach) if cuttable.may_cut[at]]
        found.append(min(near, key=lambda at: (_crossing(cuttable, at), abs(at - middle))))
    return found


def _crossing(cuttable: Cuttable, boundary: int) -> int:
    users = [[cuttable.position.get(user, -1) for user in node.users] for node in cuttable.trunk[:boundary]]
    return sum(any(position >= boundary for position in of_node) for of_node in users)


def _tensors(prepared: Prepared, model: torch.nn.Module) -> dict[tuple[str, str], torch.Tensor]:
    found: dict[tuple[str, str], torch.Tensor] = {("parameter", name): p for name, p in model.named_parameters()}
    found |= {("buffer", name): buffer for name, buffer in model.named_buffers()}
    return found | {("constant", name): constant for name, constant in prepared.captured.constants.items()}


def _bound(prepared: Prepared, batch: dict[str, torch.Tensor], count: int) -> list[MicroBatch]:
    bound = [bind(prepared.captured, part, index) for index, part in enumerate(split(batch, count))]
    terms, rows = prepared.terms, sum(one.rows for one in bound)
    totals = [sum(count(one.inputs, one.sizes) for one in bound) if count else 0.0 for count in terms.counts]
    for one in bound:
        one.scales = scales(terms, totals, one.rows, rows)
    return bound


def describe(stages: list[Stage]) -> str:
    """What the stages are like."""
    sizes = [sum(argument.kind == "size" for argument in stage.segments[0].arguments) for stage in stages]
    arguments = [len(stage.segments[0].arguments) for stage in stages]
    values = [len(stage.received) for stage in stages]
    return f"stages: {len(stages)}; of each, arguments {arguments}, of them sizes {sizes}, values received {values}"


def compare(pipeline: Pipeline, repeats: int, realtime: bool) -> None:
    """Prints what the executor adds."""
    plain = pipeline.plain()
    ways: dict[str, Callable[[], None]] = {"plain loop": plain.step, "executor": pipeline.step}
    gradients = []
    for step in ways.values():
        step()
        gradients.append(pipeline.take_gradients())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=0, atol=0)
    with before_others(realtime):
        times = take_turns(pipeline, ways, repeats)
    actions = sum(action.kind in "FB" for action in pipeline.schedule.actions(0))
    print(describe(pipeline.stages))
    for name, row in zip(ways, times, strict=True):
        us = row / actions * 1e6
        print(f"{name:10}  {np.median(us):7.1f} us a computing action (median; fastest {us.min():.1f})")
    added = np.median(times[1] - times[0]) / actions * 1e6
    least = (times[1].min() - times[0].min()) / actions * 1e6
    holds = "yes" if added < WANTED_US else "NO"
    print(f"executor adds {added:.1f} us (median of pairs; fastest {least:.1f}); wanted < {WANTED_US}: {holds}")


def take_turns(pipeline: Pipeline, ways: dict[str, Callable[[], None]], repeats: int) -> np.ndarray:
    """Seconds of every step, shape (ways, repeats)."""
    times = np.zeros((len(ways), repeats))
    gc.disable()
    for repetition in range(repeats):
        for row, step in zip(times, ways.values(), strict=True):
            pipeline.take_gradients()
            start = time.perf_counter()
            step()
            row[repetition] = time.perf_counter() - start
    gc.enable()
    return times


def profile(pipeline: Pipeline, repeats: int) -> None:
    """Prints where the executor's own time goes."""
    watch = cProfile.Profile()
    watch.enable()
    for _ in range(repeats):
        pipeline.step()
    watch.disable()
    pstats.Stats(watch).sort_stats("tottime").print_stats(25)


def messages(pipeline: Pipeline, repeats: int) -> None:
    """Prints what a rank spends on actions of each kind."""
    spent: dict[str, list[float]] = defaultdict(list)

    def watched(kind: str, do: Callable[[Any], None]) -> Callable[[Any], None]:
        def timed(action: Any) -> None:
            start = time.perf_counter()
            do(action)
            spent[kind].append(time.perf_counter() - start)

        return timed

    pipeline.step()
    do: dict[str, Callable[[Any], None]] = pipeline.executor._do  # type: ignore[assignment]
    do.update({kind: watched(kind, one) for kind, one in do.items()})
    for _ in range(repeats):
        pipeline.take_gradients()
        pipeline.step()
    rows = [f"{kind} {np.median(times) * 1e6:.0f}" for kind, times in spent.items() if kind != "REDUCE_GRAD"]
    print(f"rank {dist.get_rank()}, us an action, median: {', '.join(rows)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--stages", type=int, default=4)
    parser.add_argument("--microbatches", type=int, default=8)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--realtime", action="store_true", help="goes before this machine's other programs")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = options.stages, options.microbatches, options.layers
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("merak")
        with before_others(options.realtime):
            messages(Pipeline(*sizes, dist.group.WORLD), options.repeats)
        dist.destroy_process_group()
        return
    pipeline = Pipeline(*sizes, None)
    compare(pipeline, options.repeats, options.realtime)
    if options.profile:
        profile(pipeline, options.repeats)


if __name__ == "__main__":
    main()
