"""A tiny GPT-2 with random weights, captured and cut, and merak's executor for it. Compute is real, and small."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from merak.graph.losses import scales
from merak.graph.prepare import Prepared, prepare
from merak.graph.stages import Cuttable
from merak.pipeline.crossing import Teams
from merak.pipeline.executor import Executor
from merak.pipeline.messages import Messages
from merak.pipeline.microbatches import MicroBatch, bind, split
from merak.pipeline.schedule import Schedule
from merak.pipeline.stage_runner import StageRunner

from .emulation import CPU
from .plain_loop import PlainLoop

VOCABULARY, TOKENS, HIDDEN = 64, 8, 32


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
        messages: Any = Messages(self.stages, Teams.of_one(self.schedule.stage_to_rank), group, CPU)  # type: ignore[arg-type]
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
