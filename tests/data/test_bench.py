"""The benchmarks run, on little."""

from __future__ import annotations

import sys

import pytest

from benchmarks.data import dropping, sampling

pytestmark = pytest.mark.slow


def test_sampling(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["sampling", "--samples", "200000", "--batch", "8", "--batches", "20"])
    sampling.main()
    assert "200,000 samples, 1 workers, batches of 8" in capsys.readouterr().out


def test_dropping(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--hidden", "64", "--tokens", "32", "--layers", "3", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["dropping", *options])
    dropping.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["32", "16", "8"]
