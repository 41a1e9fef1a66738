"""What docs/pipeline.md shows is what runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from merak.cli import main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pipeline.md"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec("\n".join(block for block in blocks("python") if "init_process_group" not in block), names)
    assert (tmp_path / "eager.png").exists()
    assert (tmp_path / "eager.json").exists()
    assert names["simulation"].seconds == pytest.approx(114)


@pytest.mark.parametrize("block", blocks("console"))
def test_the_commands_print_what_the_page_says(
    block: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "118")
    command, *shown = block.splitlines()
    assert main(shlex.split(command.removeprefix("$ merak "))) == 0
    printed = capsys.readouterr().out.splitlines()
    if shown[-1] == "...":  # the rest is left out
        shown.pop()
        printed = printed[: len(shown)]
    assert printed == shown
