"""Training that goes on from a checkpoint: under the same plan and under others, and in the plain model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from merak.engine import Engine, Plan, load_into, parallelize
from tests.backend.harness import Context, RankError
from tests.engine import zoo

ROWS, BEFORE, AFTER = 8, 2, 2


def engine_of(model: str, plan: Plan) -> tuple[Engine, list[zoo.Batch]]:
    """An engine, and this rank's share of every step's batch."""
    whole = [zoo.batch_of(model, ROWS, step) for step in range(BEFORE + AFTER)]
    dp_rank = torch.distributed.get_rank() % plan.dp
    shares = [{key: value.tensor_split(plan.dp)[dp_rank] for key, value in batch.items()} for batch in whole]
    made = parallelize(
        zoo.make(model), plan, shares[0], optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2, eps=1e-4), clip=0.5
    )
    return made, shares


def run_through(context: Context, model: str, plan: Plan, path: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses after the checkpoint, in a run that was not interrupted; and its parameters at the checkpoint."""
    engine, batches = engine_of(model, plan)
    for batch in batches[:BEFORE]:
        engine.train_step(batch)
    engine.save(path, {"place": [1, 2]})
    at = {name: parameter.detach().clone() for name, parameter in engine.parameters.items()}
    return [engine.train_step(batch) for batch in batches[BEFORE:]], at


def resume(context: Context, model: str, plan: Plan, path: Path) -> tuple[list[float], object, int]:
    engine, batches = engine_of(model, plan)
    extra = engine.load(path)
    steps = engine.steps
    return [engine.train_step(batch) for batch in batches[BEFORE:]], extra, steps


def load_plain(context: Context, model: str, path: Path) -> dict[str, torch.Tensor]:
    plain = zoo.make(model)
    load_into(plain, path)
    return {name: parameter.detach() for name, parameter in plain.named_parameters()}


PLANS = [
    Plan(dp=2, pp=2, microbatches=2),
    Plan(dp=2, pp=2, microbatches=2, data_parallel="zero1", schedule="interleaved", recompute=0.5),
    Plan(dp=1, pp=4, microbatches=4, schedule="shifted", recompute=1.0),
    Plan(dp=4, pp=1, microbatches=1),
]


@pytest.mark.parametrize("model", [pytest.param("gpt2", marks=pytest.mark.slow), "resnet"])
def test_a_resumed_run_has_the_losses_of_one_that_was_not_interrupted(run, tmp_path: Path, model: str) -> None:
    path = tmp_path / "checkpoint"
    through = run(run_through, model, PLANS[0], path, world_size=4)
    wanted = through[0][0]
    # ResNet's statistics are those of a replica's own micro-batches, so that only the same plan has the same.
    for plan in PLANS if model == "gpt2" else PLANS[:1]:
        for losses, extra, steps in run(resume, model, plan, path, world_size=4):
            assert losses == pytest.approx(wanted, rel=1e-5)
            assert (extra, steps) == ({"place": [1, 2]}, BEFORE)
    plain = run(load_plain, model, path, world_size=1)[0]
    for _, parameters in through:
        for name, parameter in parameters.items():
            assert torch.equal(plain[name], parameter), name


@pytest.mark.slow
def test_a_checkpoint_of_another_model_is_refused(run, tmp_path: Path) -> None:
    run(run_through, "gpt2", PLANS[0], tmp_path / "checkpoint", world_size=4)
    with pytest.raises(RankError, match="of another model"):
        run(resume, "opt", PLANS[0], tmp_path / "checkpoint", world_size=4)
    with pytest.raises(RankError, match="there is no checkpoint at"):
        run(resume, "gpt2", PLANS[0], tmp_path / "nowhere", world_size=4)
