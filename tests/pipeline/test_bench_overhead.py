"""The benchmark of the executor's overhead: its plain loop and the executor get the same gradients, to the bit."""

from __future__ import annotations

import pytest

from benchmarks.pipeline.overhead import compare
from benchmarks.pipeline.tiny_pipeline import Pipeline


def test_plain_loop_does_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    compare(Pipeline(stages=3, microbatches=4, layers=3, group=None), repeats=2, realtime=False)
    printed = capsys.readouterr().out
    assert "stages: 3; of each" in printed
    assert "executor adds" in printed
