"""`merak simulate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from merak.cli import main
from merak.pipeline import Schedule


def output(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert main(["simulate", *arguments]) == status
    captured = capsys.readouterr()
    return captured.err if status else captured.out


def test_it_prints_a_chart_and_what_it_costs(capsys: pytest.CaptureFixture[str]) -> None:
    costs = ["--forward", "1", "--backward", "2", "--recompute", "1", "--message", "0"]
    text = output(capsys, "--schedule", "shifted", "--ranks", "4", "--microbatches", "8", *costs, "--width", "130")
    assert text.splitlines()[2].strip().startswith("rank 2        F0 F1 F2 R0 B0--- R1 B1--- F3 R2 B2---")
    assert "38 s, bubble 21.1%" in text
    assert text.splitlines()[-1].split() == ["3", "36.8%", "1", "1", "0", "2"]


def test_a_ranks_cost_is_shared_by_its_stages(capsys: pytest.CaptureFixture[str]) -> None:
    assert "\n33 s" in output(capsys)
    assert "\n28.5 s" in output(capsys, "--schedule", "interleaved")
    assert "\n28.5 s" in output(capsys, "--schedule", "interleaved", "--forward", "0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5")
    assert "\n26.25 s" in output(capsys, "--schedule", "interleaved", "--stages-per-rank", "4")


def test_it_compares_all_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [line.split("  ") for line in output(capsys, "--compare", "--message", "0.5").splitlines()]
    names = {row[0] for row in rows}
    assert {"gpipe", "1f1b", "zbv, 2 stages a rank", "eager", "shifted", "1f1b, recompute"} <= names


def test_it_writes_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    csv, trace, picture = tmp_path / "it.csv", tmp_path / "it.json", tmp_path / "it.png"
    output(capsys, "--schedule", "eager", "--csv", str(csv), "--trace", str(trace), "--picture", str(picture))
    assert Schedule.from_csv(csv) == Schedule.make("eager", stages=4, microbatches=8)
    assert json.loads(trace.read_text())["traceEvents"]
    assert picture.stat().st_size > 1000
    assert "33 s" in output(capsys, "--schedule", str(csv))


def test_stages_that_recompute(capsys: pytest.CaptureFixture[str]) -> None:
    assert "44 s" in output(capsys, "--recomputing", "all")
    assert "33 s" in output(capsys, "--schedule", "eager", "--recomputing", "none")
    assert "R0" in output(capsys, "--recomputing", "0,1").splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--schedule", "best"], "there is no schedule 'best', and no file of that name; there are gpipe"),
        (["--microbatches", "0"], "micro-batches: 0 is not between 1"),
        (["--ranks", "99999999999"], "99999999999 is out of all bounds"),
        (["--ranks", "-3"], "is not between 1"),
        (["--schedule", "zbv", "--stages-per-rank", "3"], "zbv has 2 stages a rank"),
        (["--forward", "1,2"], "forward: 2 values for 4 stages"),
        (["--compare", "--forward", "1,2,3,4"], "forward: 4 values for 8 stages"),
        (["--compare", "--csv", "it.csv"], "--csv: for one schedule; leave --compare out"),
        (["--message", "-1"], "not negative"),
        (["--forward", "nan"], "finite"),
        (["--recomputing", "some"], "--recomputing is 'some'; it is all, none, or stages such as 0,1"),
        (["--recomputing", "9"], "are no stages of 4"),
        (["--receives-ahead", "-1"], "receives ahead: -1 is below 0"),
        (["--csv", "/no/such/folder/it.csv"], "No such file"),
    ],
)
def test_bad_input_ends_with_a_message(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in output(capsys, *arguments, status=1)


def test_options_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["simulate", "--stages", "8"])
    assert "unrecognized arguments: --stages 8" in capsys.readouterr().err


def test_a_file_that_is_no_schedule(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for content in (b"0F0,0B0\n0F1", b"\xff\xfe\x00", b"", b"0F0,0F1,0B0"):
        (tmp_path / "it.csv").write_bytes(content)
        assert "merak simulate: " in output(capsys, "--schedule", str(tmp_path / "it.csv"), status=1)
    assert "merak simulate: " in output(capsys, "--schedule", str(tmp_path), status=1)


def test_colours_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    text = output(capsys, "--ranks", "2", "--microbatches", "2", "--width", "100")
    assert "\x1b[" in text
    assert "F0" in text
