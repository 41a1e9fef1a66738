"""Checkpoints that cannot be written or read: all ranks say so, and nothing has changed, on disk or in the engine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist

from merak.engine import Engine, Plan, checkpoint, load_into
from tests.backend.harness import Context, RankError
from tests.engine.chains import HALVES, QUARTERS, Chain, engine_of, same, train, values_of

Runner = Callable[..., list[Any]]
PIPELINE = Plan(pp=2, microbatches=2, cuts=HALVES)
Values = dict[str, torch.Tensor]


def adam(parameters: Iterable[Any]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-2, eps=1e-4)


def momentum(parameters: Iterable[Any]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def state_of(engine: Engine) -> Values:
    """A copy of all that a checkpoint has."""
    return {name: tensor.clone() for name, tensor in engine.state_dict().items()}


def train_and_save(context: Context, plan: Plan, steps: int, path: Path) -> Values:
    engine = engine_of(plan, adam)
    train(engine, range(steps))
    engine.save(path, {"steps": steps})
    return values_of(engine)


def load_and_look(context: Context, path: Path) -> tuple[Any, Values]:
    engine = engine_of(PIPELINE, adam)
    return engine.load(path), values_of(engine)


def test_a_folder_used_again_has_the_last_checkpoint(run: Runner, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    run(train_and_save, Plan(pp=4, microbatches=2, cuts=QUARTERS), 1, path, world_size=4)
    last = run(train_and_save, PIPELINE, 3, path, world_size=2)
    for (extra, values), wanted in zip(run(load_and_look, path, world_size=2), last, strict=True):
        assert extra == {"steps": 3}
        assert same(values, wanted)
    assert len(list(path.iterdir())) == 2


def die_saving(context: Context, path: Path, where: str, victim: int) -> None:
    engine = engine_of(PIPELINE, adam)
    train(engine, range(2))

    def die(*_: Any, **__: Any) -> None:
        os._exit(1)

    places = {
        "writing": mock.patch.object(checkpoint, "write_tensors", die),
        "committing": mock.patch.object(Path, "replace", die),
        "cleaning": mock.patch.object(shutil, "rmtree", die),
    }
    if context.rank == victim:
        places[where].start()
    try:
        engine.save(path, {"steps": 2})
    finally:
        mock.patch.stopall()


@pytest.mark.parametrize(("where", "victim", "steps"), [("writing", 1, 1), ("committing", 0, 1), ("cleaning", 0, 2)])
def test_a_killed_save_leaves_one_whole_checkpoint(
    run: Runner, tmp_path: Path, where: str, victim: int, steps: int
) -> None:
    path = tmp_path / "checkpoint"
    run(train_and_save, PIPELINE, 1, path, world_size=2)
    with pytest.raises(RankError):
        run(die_saving, path, where, victim, world_size=2)
    assert [extra for extra, _ in run(load_and_look, path, world_size=2)] == [{"steps": steps}] * 2
    last = run(train_and_save, PIPELINE, 3, path, world_size=2)
    for (extra, values), wanted in zip(run(load_and_look, path, world_size=2), last, strict=True):
        assert extra == {"steps": 3}
        assert same(values, wanted)
    assert len(list(path.iterdir())) == 2


def test_a_killed_first_save_is_not_seen(run: Runner, tmp_path: Path) -> None:
    with pytest.raises(RankError):
        run(die_saving, tmp_path / "checkpoint", "committing", 0, world_size=2)
    assert not (tmp_path / "checkpoint").exists()
    run(train_and_save, PIPELINE, 1, tmp_path / "checkpoint", world_size=2)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (the tests look at it)
        call()
    return str(raised.value)


def damage(path: Path, how: str) -> None:
    shards = sorted(path.glob("*/*.safetensors"))
    if how == "truncated":
        os.truncate(shards[-1], shards[-1].stat().st_size - 100)
    elif how == "garbage":
        shards[0].write_bytes(b"garbage")
    elif how == "lost":
        shards[-1].unlink()
    else:
        (path / "checkpoint.json").write_text('{"format": 1')


def load_damaged(context: Context, hows: list[str]) -> tuple[list[str], bool]:
    engine = engine_of(PIPELINE, adam)
    train(engine, range(2))
    before = state_of(engine)
    texts = []
    for how in hows:
        path = context.folder / how
        engine.save(path)
        if context.rank == 0:
            damage(path, how)
        dist.barrier()
        texts.append(refused(lambda path=path: engine.load(path)))
        texts.append(refused(lambda path=path: load_into(Chain(), path)))
        dist.barrier()
    unchanged = same(before, state_of(engine)) and engine.steps == 2
    train(engine, [2])
    return texts, unchanged


def test_a_damaged_checkpoint_is_refused_by_all(run: Runner) -> None:
    hows = ["truncated", "garbage", "lost", "text"]
    first, second = run(load_damaged, hows, world_size=2)
    assert first == second
    texts, unchanged = first
    assert unchanged
    for text, how in zip(texts, [how for how in hows for _ in range(2)], strict=True):
        assert f"/{how}" in text
        assert "damaged" in text or "it lacks" in text
        assert "opy" in text or "Make the model that was saved" in text


def load_other(context: Context) -> tuple[dict[str, str], bool]:
    path = context.folder / "checkpoint"
    engine = engine_of(PIPELINE, adam, Chain(6))
    train(engine, [0])
    engine.save(path)
    smaller, larger = engine_of(PIPELINE, adam), engine_of(PIPELINE, adam, Chain(8))
    before = state_of(smaller)
    texts = {
        "smaller": refused(lambda: smaller.load(path)),
        "larger": refused(lambda: larger.load(path)),
        "plain": refused(lambda: load_into(Chain(3), path)),
        "wider": refused(lambda: load_into(Chain(6, 7), path)),
        "optimizer": refused(lambda: engine_of(PIPELINE, momentum, Chain(6)).load(path)),
        "file": refused(lambda: smaller.load(__file__)),
    }
    return texts, same(before, state_of(smaller))


def test_a_checkpoint_of_something_else_is_refused_by_all(run: Runner) -> None:
    first, second = run(load_other, world_size=2)
    assert first == second
    texts, unchanged = first
    assert unchanged
    assert "the model has no layers.4.bias, layers.4.weight, layers.5.bias, layers.5.weight" in texts["smaller"]
    assert "it lacks layers." in texts["larger"]
    assert "the model has no layers.3.bias" in texts["plain"]
    assert "and 1 more" in texts["plain"]
    assert "layers.0.weight ([6, 6], in the model [7, 7])" in texts["wider"]
    assert "it was trained by AdamW, and this engine's optimizer is SGD" in texts["optimizer"]
    assert "there is no checkpoint at" in texts["file"]


def save_badly(context: Context) -> tuple[list[str], list[str]]:
    engine = engine_of(PIPELINE, adam)
    train(engine, [0])
    path, first = context.folder / "checkpoint", context.rank == 0
    engine.save(path, {"good": 1})
    broken = mock.patch("torch.distributed.checkpoint.filesystem.os.fsync", side_effect=OSError("disk is full"))
    texts = [
        refused(lambda: engine.save(path, {"x": torch.zeros(2)} if first else {"x": 1})),
        refused(lambda: engine.save(path, 3 if first else {"x": 1})),  # type: ignore[arg-type]
        refused(lambda: engine.save("/proc/nowhere/checkpoint")),
        refused(lambda: engine.save(path / "checkpoint.json")),
    ]
    if not first:
        broken.start()
    texts.append(refused(lambda: engine.save(path)))
    mock.patch.stopall()
    assert engine.load(path) == {"good": 1}
    train(engine, [1])
    return texts, sorted(one.name.partition("-")[0] for one in path.iterdir())


def test_what_one_rank_cannot_save_none_does(run: Runner) -> None:
    first, second = run(save_badly, world_size=2)
    assert first == second
    texts, left = first
    assert left == ["checkpoint.json", "tensors"]
    for text, wanted in zip(
        texts,
        ["rank 0: `extra` is to be", "rank 0: `extra` is to be", "rank 0: FileNotFoundError", "rank 0: ", "rank 1: "],
        strict=True,
    ):
        assert text.startswith("no checkpoint was written to ")
        assert wanted in text
    assert "disk is full" in texts[-1]
