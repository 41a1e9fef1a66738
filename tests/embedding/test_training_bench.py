"""The benchmark of whole training steps: its models are shaped as their docstrings say, and on two emulated hosts every
way trains them alike."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.embedding import training
from benchmarks.embedding.models import MODELS, emulated
from benchmarks.embedding.models.task import Task, Zipf, generator
from benchmarks.embedding.training_ways import BASELINES, WAYS
from benchmarks.embedding.training_worker import Suite
from benchmarks.testbed import Topology, unavailable

REASON = unavailable()
SHARES = {"lstm": (0.97, 1.0), "gnmt": (0.33, 0.35), "transformer": (0.24, 0.26), "bert": (0.20, 0.22)}


def made(name: str) -> Task:
    torch.manual_seed(0)
    model = name.removeprefix("emulated ")
    return emulated.task(MODELS[model](16), 0.1, 0.1) if model != name else MODELS[name](16)


@pytest.mark.parametrize("name", MODELS)
def test_share_of_embeddings_is_the_published_one(name: str) -> None:
    low, high = SHARES[name]
    assert low <= MODELS[name](1).share_of_tables() <= high


@pytest.mark.parametrize("name", MODELS)
def test_emulated_models_are_as_large(name: str) -> None:
    real, waiting = made(name), made(f"emulated {name}")
    assert waiting.share_of_tables() == pytest.approx(real.share_of_tables(), abs=1e-4)
    for table, other in zip(real.tables().values(), waiting.tables().values(), strict=True):
        assert table.weight.shape == other.weight.shape


@pytest.mark.parametrize("name", [*MODELS, "emulated lstm", "emulated transformer"])
def test_announced_ids_are_those_looked_up(name: str) -> None:
    task = made(name)
    looked_up: dict[str, torch.Tensor] = {}
    for table, module in task.tables().items():
        module.register_forward_hook(lambda _, ids, __, table=table: looked_up.update({table: ids[0]}))
    batch = task.draw(3, 1)
    loss = task.model(batch)
    announced = task.ids(batch)
    assert list(announced) == list(task.tables())
    assert set(looked_up) == set(announced)
    assert all(torch.equal(looked_up[table], ids) for table, ids in announced.items())
    loss.backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in task.model.parameters())


@pytest.mark.parametrize("name", [*MODELS, "emulated lstm", "emulated transformer"])
def test_batches_are_the_same_whenever_drawn_and_others_elsewhere(name: str) -> None:
    first, again = (made(name).ids(made(name).draw(0, 0)) for _ in range(2))
    others = [made(name).ids(made(name).draw(*place)) for place in ((0, 1), (1, 0))]
    for table, ids in first.items():
        assert torch.equal(ids, again[table])
        assert not any(torch.equal(ids, other[table]) for other in others)


def test_words_are_as_frequent_as_zipf_says() -> None:
    draws = 200_000
    counts = Zipf(10).draw(generator(0, 0), draws).bincount(minlength=10)
    weights = 1 / torch.arange(1, 11, dtype=torch.float64)
    assert counts.sum() == draws
    assert len(counts) == 10
    spread = 5 * math.sqrt(draws)
    assert (counts - weights / weights.sum() * draws).abs().max() < spread


def test_gradients_of_emulated_layers_are_true() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, weight: emulated.Sleeping.apply(x, weight, 0.0, 0.0), (x, weight))


def losses(way: str, *values: float) -> dict[str, Any]:
    return {"model": "lstm", "way": way, "losses": list(values)}


def test_ways_that_do_not_agree_are_refused() -> None:
    training.check_agreement([losses("a", 2.0, 1.0), losses("b", 2.0, 1.0005)])
    for wrong in (1.002, float("nan")):
        with pytest.raises(ValueError, match="b and a do not agree"):
            training.check_agreement([losses("a", 2.0, 1.0), losses("b", 2.0, wrong)])


@pytest.mark.parametrize("apart", [False, True])
def test_launches_and_exit_status(apart: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    launched: list[tuple[str, ...]] = []
    wrong = 1.0

    def measure(suite: Suite, topology: Topology, timeout: float) -> list[dict[str, Any]]:
        launched.append(suite.ways)
        figures = {"hosts": 4, "words": 8, "parameters": 1, "share_of_tables": 1.0, "emulated_compute_ms": None}
        shown = {"times": [0.1], "left": [1.0]}
        return [figures | shown | losses(way, wrong if way == "gloo dense" else 1.0) for way in suite.ways]

    monkeypatch.setattr(training, "measure", measure)
    options = ["--models", "lstm", "--ways", "alltoall", "gloo dense", *(["--apart"] if apart else [])]
    assert training.main([*options, "--output", str(tmp_path / "lines.jsonl")]) == 0
    assert launched == ([("alltoall",), ("gloo dense",)] if apart else [("alltoall", "gloo dense")])
    assert len((tmp_path / "lines.jsonl").read_text().splitlines()) == 2
    wrong = 2.0
    assert training.main(options) == 1


def test_steps_that_make_no_whole_turns_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert training.main(["--steps", "6"]) == 1
    assert "multiple of 4" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(REASON is not None, reason=str(REASON))
def test_ways_beside_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "lines.jsonl"
    models = ["lstm", "gnmt", "bert"]
    sizes = ["--hosts", "2", "--steps", "4", "--divide-rows", "16", "--timeout", "200"]
    assert training.main(["--models", *models, *sizes, "--output", str(output)]) == 0
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert {(line["model"], line["way"]) for line in lines} == {(model, way) for model in models for way in WAYS}
    for line in lines:
        assert len(line["times"]) == 4
        assert len(line["losses"]) == 5
        assert line["losses"][0] != line["losses"][-1]
    sent = {(line["model"], line["way"]): max(line["left"]) for line in lines}
    # On two hosts a dense all-reduce sends each gradient once; a lookup and its gradient, half a row each.
    assert sent["lstm", "gloo dense"] == pytest.approx(4 * 1.89e6, rel=0.03)
    for model in models:
        assert sent[model, "alltoall"] < min(sent[model, way] for way in BASELINES) * 1.02
    shown = capsys.readouterr().out
    assert all(f"2 hosts, {model}" in shown for model in models)
    assert "EMULATED COMPUTE" not in shown


@pytest.mark.skipif(REASON is not None, reason=str(REASON))
@pytest.mark.slow
def test_emulated_compute(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--hosts", "2", "--steps", "4", "--divide-rows", "16", "--compute-ms", "1", "1", "--timeout", "200"]
    assert training.main(["--models", "transformer", "--ways", "2d", "gloo dense", *sizes]) == 0
    assert "EMULATED COMPUTE, 1 ms forward and 1 ms backward" in capsys.readouterr().out
