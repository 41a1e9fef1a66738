"""The experiment's mechanics: arms, resuming, results to go on with, the verdict; and, on little, the ordering."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.data.experiment import __main__ as command
from benchmarks.data.experiment import corpus
from benchmarks.data.experiment.arms import ARMS, IDEAS, SMOKE, WHOLE, Losses, Run, best_rate, runs_in_order, steps_of
from benchmarks.data.experiment.report import report, summaries, verdict
from benchmarks.data.experiment.results import Results
from benchmarks.data.experiment.training import RARITY, Training
from merak.data import MetricIndex, analyze

TINY = dataclasses.replace(SMOKE, budget=24_000, tokens=16, batch=4, hidden=16, layers=4, heads=2)
BOTH = Run(ARMS["both@50"], 4e-3, 0)


@pytest.fixture
def data(tmp_path: Path) -> tuple[corpus.Data, MetricIndex]:
    rows = np.random.default_rng(0).integers(0, 40, (900, 17)).astype(np.uint16)
    made = corpus.Data(rows[:800], rows[800:], 40, "made up")
    return made, analyze(made.train, [RARITY], output=tmp_path / "index")


def test_arms_use_their_budget_and_no_more() -> None:
    steps = {name: steps_of(arm, WHOLE) for name, arm in (ARMS | IDEAS).items()}
    assert steps["base@100"] == 4395
    assert steps["base@50"] < steps["curriculum@50"] < steps["both@50"] < steps["both@100"]
    few, many = steps["both@50"], steps["base@50, as many steps"]
    assert few <= many <= 1.1 * few
    assert ARMS["both@50"].keep_schedule(WHOLE).kept(0, 128) == 16


def test_what_tells_most_comes_first() -> None:
    losses: Losses = {}
    taken: list[Run] = []
    while True:
        order = list(runs_in_order([4e-3, 8e-3], 3, True, losses))
        run = next((run for run in order if (run.arm.name, run.rate, run.seed) not in losses), None)
        if run is None:
            break
        taken.append(run)
        losses[run.arm.name, run.rate, run.seed] = 3.0 - run.rate - (run.arm.paced == 0.7)
    assert [run.arm.name for run in taken[:7]] == list(ARMS)
    assert [(run.rate, run.seed) for run in taken[::7]][:4] == [(4e-3, 0), (8e-3, 0), (8e-3, 1), (8e-3, 2)]
    assert {run.arm.name for run in taken[28:35]} == set(IDEAS)
    assert [run.arm.name for run in taken[35:]] == ["both@50, curricula for 70 %"] * 2
    assert best_rate("base@50", losses) == 8e-3


@pytest.mark.parametrize("name", ["base@50", "both@50", "base@50, as many steps"])
def test_a_killed_run_goes_on_with_the_same_numbers(
    data: tuple[corpus.Data, MetricIndex], tmp_path: Path, name: str
) -> None:
    run, path = Run(ARMS[name], 4e-3, 0), tmp_path / "unfinished.safetensors"
    expected = Training(run, TINY, *data, lambda: None).finish(tmp_path / "none", every=1000)
    calls = 0

    def dies() -> None:
        nonlocal calls
        calls += 1
        if calls == 150:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Training(run, TINY, *data, dies).finish(path, every=30)
    assert path.exists()
    again = Training(run, TINY, *data, lambda: None)
    found = again.finish(path, every=30)
    assert not path.exists()
    assert without_seconds(found) == without_seconds(expected)
    assert found["steps"] == steps_of(run.arm, TINY)
    assert found["layer_tokens"] == pytest.approx(TINY.budget / 2, rel=0.02)


def without_seconds(result: Any) -> Any:
    if isinstance(result, list):
        return [without_seconds(one) for one in result]
    if isinstance(result, dict):
        return {name: without_seconds(one) for name, one in result.items() if name != "cpu_seconds"}
    return result


def test_checkpoints_of_other_runs_are_refused(data: tuple[corpus.Data, MetricIndex], tmp_path: Path) -> None:
    training = Training(BOTH, TINY, *data, lambda: None)
    training._train_step()
    training._save(path := tmp_path / "unfinished.safetensors")
    with pytest.raises(ValueError, match=r"is a checkpoint of 'both@50, rate 0.004, seed 0'"):
        Training(Run(ARMS["base@50"], 4e-3, 0), TINY, *data, lambda: None).finish(path)


def line(loss: float) -> dict[str, Any]:
    names = ("steps", "layer_tokens", "raw_tokens", "sequences", "flops", "cpu_seconds")
    return {**dict.fromkeys(names, 1.0), "loss": loss, "curve": []}


def results_of(folder: Path, losses: Losses) -> Results:
    results = Results(folder, WHOLE)
    for (arm, rate, seed), loss in losses.items():
        results.add(Run(ARMS[arm], rate, seed), line(loss))
    return Results(folder, WHOLE)  # read again


def test_the_verdict(tmp_path: Path) -> None:
    whole: Losses = {("base@100", 4e-3, seed): loss for seed, loss in enumerate((3.0, 3.02, 2.98))}
    half: Losses = {("base@50", 4e-3, 0): 3.3, ("base@50, as many steps", 4e-3, 0): 3.2}
    worse = results_of(tmp_path / "worse", whole | half | {("base@100", 8e-3, 0): 3.1, ("both@50", 4e-3, 0): 3.05})
    said = verdict(summaries(worse))
    assert said.startswith("Not the same quality")
    assert "75 % of the gap of 0.2000 nats" in said
    assert "3.0400 was asked for" in said
    better = results_of(tmp_path / "better", whole | half | {("both@50", 4e-3, 0): 3.04})
    assert verdict(summaries(better)).startswith("Same quality with half the compute")
    early = results_of(tmp_path / "early", half | {("base@100", 4e-3, 0): 3.0, ("both@50", 4e-3, 0): 3.0})
    assert "its deviation is not known" in verdict(summaries(early))
    printed = "\n".join(report(worse))
    assert "| base@100 | 0.004 | 3 | 3.0000 | 0.0200 |" in printed
    assert "| base@100 | 3.0000 | 3.1000 |" in printed


def test_texts_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(corpus.CorpusError, match=r"Debian's package bible-kjv cannot be had, as apt-get cannot be run"):
        corpus._of_debian("bible-kjv", tmp_path)
    with pytest.raises(corpus.CorpusError, match="ended with 1"):
        corpus._run([command.sys.executable, "-c", "raise SystemExit(1)"], tmp_path, "a text")


def test_pages_lose_their_tags() -> None:
    page = "<head><title>No</title></head><p>One &amp; <b>only</b></p><script>no</script><li>Two</li>"
    assert corpus._without_tags(page) == "One & only\n\nTwo"


def test_smoke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With half of a budget, both helps come out below none: the ordering, not the headline."""
    threads = torch.get_num_threads()
    assert command.main(["--smoke", "--results", str(tmp_path), "--cache", str(tmp_path / "cache")]) == 0
    torch.set_num_threads(threads)
    (file,) = tmp_path.glob("*.jsonl")
    base, both = (json.loads(text) for text in file.read_text().splitlines())
    assert both["loss"] < base["loss"] - 0.02
    assert both["layer_tokens"] == pytest.approx(base["layer_tokens"], rel=0.01)
    assert both["steps"] > base["steps"]
    assert len(both["curve"]) == 20
    assert re.search(r"\| both@50 \| 0\.004 \| 1 \|", capsys.readouterr().out)
    assert command.main(["--smoke", "--report", "--results", str(tmp_path)]) == 0  # nothing is trained again
