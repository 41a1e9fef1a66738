"""`merak reshard`, and the files that it reads."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Partial, Replicate, Shard, distribute_tensor

import merak
from merak.cli import main
from merak.resharding import ReshardPlan, read_layouts, save_layouts
from tests.backend.harness import Context
from tests.resharding import reference

Runner = Callable[..., list[Any]]

TRAINER = {
    "default": {"dtype": "float32", "mesh": {"shape": [2, 2]}, "placements": ["S(0)", "S(1)"]},
    "tensors": {
        "w": {"shape": [64, 32]},
        "norm": {"shape": [64], "placements": ["S(0)", "R"]},
        "more": {"shape": [8, 8]},
    },
}
GENERATOR = {
    "default": {"dtype": "bfloat16", "mesh": [0, 1], "placements": ["S(0)"]},
    "tensors": {"w": {"shape": [64, 32]}, "norm": {"shape": [64], "placements": ["R"]}},
}


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for name, facts in (("from.json", TRAINER), ("to.json", GENERATOR)):
        (tmp_path / name).write_text(json.dumps(facts))
    return [str(tmp_path / "from.json"), str(tmp_path / "to.json")]


def test_it_explains_draws_and_saves(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    saved, drawn = tmp_path / "plan.json", tmp_path / "plan.png"
    options = ["--others", "--ranks-per-host", "2", "--bandwidth", "12", "--save", str(saved), "--picture", str(drawn)]
    assert main(["reshard", *files, *options]) == 0
    text = capsys.readouterr().out
    assert "2 tensors" in text
    assert "ranks 4-5" in text
    assert "lower bound" in text
    plan = ReshardPlan.load(saved)
    assert plan.topology.hosts[0][0] == 12e6
    assert text.strip() == plan.explain(40).strip()
    assert drawn.stat().st_size > 1000


def test_the_same_ranks_by_default(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reshard", *files]) == 0
    assert "ranks 0-1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"tensors": {"v": {"shape": [3]}}}, "'v' is in the target, and not in the source"),
        ({"tensors": {"w": {"shape": [3]}}}, "shape"),
        ({"tensors": {"w": {"shape": [64, 32], "placements": ["X"]}}}, "'X' is no placement"),
        ({"tensors": {"w": {"shape": [64, 32], "dtype": "f32"}}}, "f32"),
        ({"tensors": {"w": {}}}, "it has no 'shape'"),
        ({"tensors": 3}, 'has no "tensors"'),
        ({"tensors": {"w": None}}, "in { }"),
        ({"tensors": {"w": {"shape": [-3]}}}, "-3, where a whole number"),
        ({"tensors": {"w": {"shape": [4.5, 2]}}}, "4.5, where a whole number"),
        ({"tensors": {"w": {"shape": [64, 32], "mesh": [4000000000]}}}, "ranks beyond"),
        ({"tensors": {"w": {"shape": [64, 32], "mesh": {"shape": [100000, 100000]}}}}, "10000000000, where"),
    ],
)
def test_wrong_files_are_told(
    files: list[str], change: dict[str, Any], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(files[1]).write_text(json.dumps(GENERATOR | change))
    assert main(["reshard", *files]) == 1
    assert text in capsys.readouterr().err


def test_files_that_are_not_there_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reshard", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert "merak reshard:" in capsys.readouterr().err
    (tmp_path / "a").write_text("{")
    assert main(["reshard", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert "is no JSON" in capsys.readouterr().err


def test_topologies_from_files(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    topology = merak.resharding.Topology.uniform(4, 1, 5e6)
    path = tmp_path / "topology.json"
    path.write_text(json.dumps(topology.to_json()))
    assert main(["reshard", *files, "--topology", str(path)]) == 0
    assert "4 ranks on 4 hosts" in capsys.readouterr().out
    path.write_text("[]")
    assert main(["reshard", *files, "--topology", str(path)]) == 1
    assert "topology" in capsys.readouterr().err


# Layouts from what exists --------------------------------------------------------------------------------------------


def write_layouts(context: Context, path: str) -> None:
    layout = reference.Layout(torch.tensor([[1, 0]]), (Partial(), Shard(1)))
    x = reference.source([torch.zeros(4, 6)], layout, context.rank)
    if context.rank == 0:
        save_layouts({"x": x, "epoch": 3}, path)
        (found,) = read_layouts(path).values()
        assert found.layout == merak.resharding.layouts.layout_of_dtensor(x)
        assert found.shape == (4, 6)


def test_layouts_are_saved_and_read(run: Runner, tmp_path: Path) -> None:
    run(write_layouts, str(tmp_path / "layouts.json"))


def write_checkpoint(context: Context, folder: str) -> None:
    import torch.distributed.checkpoint as dcp

    two = init_device_mesh("cpu", (2, 2))
    state: dict[str, Any] = {
        "both": distribute_tensor(torch.zeros(7, 6), two, [Shard(0), Shard(1)]),
        "rows": distribute_tensor(torch.zeros(5), init_device_mesh("cpu", (4,)), [Shard(0)]),
        "whole": distribute_tensor(torch.zeros(3, 3, dtype=torch.bfloat16), two, [Replicate(), Replicate()]),
        "step": 7,
    }
    dcp.save(state, checkpoint_id=folder)


def test_layouts_of_a_checkpoint(run: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "checkpoint"
    run(write_checkpoint, str(folder), world_size=4)
    found = read_layouts(folder)
    assert set(found) == {"both", "rows", "whole"}
    assert found["both"].layout == ((2, 2), (0, 1, 2, 3), (("shard", 0, 1, "none"), ("shard", 1, 1, "none")))
    assert found["rows"].layout[2] == (("shard", 0, 1, "none"),)
    assert found["rows"].layout[0] == (3,), "the fourth has nothing"
    assert found["whole"].dtype == torch.bfloat16
    assert len(found["whole"].layout[1]) == 1, "one of its holders wrote it"
    (tmp_path / "to.json").write_text(
        json.dumps({"tensors": {"both": {"shape": [7, 6], "dtype": "float32", "mesh": [4], "placements": ["R"]}}})
    )
    assert main(["reshard", str(folder), str(tmp_path / "to.json")]) == 0
    assert "both" in capsys.readouterr().out


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("never",))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="cannot be read as the metadata"):
        read_layouts(tmp_path)
    assert "never" not in capsys.readouterr().out


def test_a_folder_without_metadata_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no \.metadata"):
        read_layouts(tmp_path)
