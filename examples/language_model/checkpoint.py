"""Checkpoints by torch.distributed.checkpoint, one folder each, written by all ranks together.

    checkpoints/step-000200/shard-0000R-....safetensors   what rank R - 1 wrote; equal tensors are written once
    checkpoints/step-000200/run.json                      what defines the run, compared when it is resumed

The tensors are stored as safetensors, which unlike torch's default format holds no pickle: reading a checkpoint from
elsewhere runs no code of its author. A folder is written under another name and renamed when it is whole, so a job that
is killed while it writes leaves the checkpoint before intact. The folder must be the same for all ranks: on several
hosts it lies on a shared file system. The number of ranks may change between saving and resuming.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from common.options import UsageError
from common.world import World
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load as read_state
from torch.distributed.checkpoint.state_dict_saver import save as write_state

State = dict[str, Any]  # nested, with tensors as leaves


class Checkpoints:
    """The checkpoints in `folder`; all methods are collective.

    Args:
        run: what defines the run, as JSON values; a checkpoint of a run defined otherwise is refused.
        keep: how many of the newest checkpoints remain.
    """

    def __init__(self, folder: Path, run: dict[str, Any], keep: int, world: World) -> None:
        self._folder = folder
        self._run = run
        self._keep = keep
        self._world = world

    def newest(self) -> int:
        """The step of the newest whole checkpoint, 0 if there is none."""
        return self._world.share_number(max(self._steps(), default=0))

    def set_aside(self) -> Path | None:
        """Moves the checkpoints of an earlier run out of the way, in place of those moved before; tells where to."""
        target = self._folder.with_name(self._folder.name + ".previous")
        found = self.newest() > 0
        if found and self._world.leads:
            shutil.rmtree(target, ignore_errors=True)
            self._folder.rename(target)
        self._world.barrier()
        return target if found else None

    def save(self, step: int, state: State) -> None:
        """Writes the checkpoint of `step` and removes the oldest beyond those to keep.

        Raises:
            FileNotFoundError: this rank does not see what rank 0 writes.
        """
        partial = self._path(step).with_suffix(".partial")
        if self._world.leads:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            (partial / "run.json").write_text(json.dumps(self._run, indent=2) + "\n")
        self._world.barrier()
        self._run_in(partial)  # otherwise torch would make a folder of the same name on this rank's own disk
        write_state(state, storage_writer=HuggingFaceStorageWriter(str(partial), save_distributed=True))
        if self._world.leads:
            shutil.rmtree(self._path(step), ignore_errors=True)
            partial.rename(self._path(step))
            for old in sorted(self._steps())[: -self._keep]:
                shutil.rmtree(self._path(old))
        self._world.barrier()

    def load(self, step: int, state: State) -> None:
        """Reads the checkpoint of `step` into the tensors of `state`.

        Raises:
            UsageError: the checkpoint belongs to a run that is defined otherwise.
            FileNotFoundError: this rank does not see what rank 0 sees.
        """
        path = self._path(step)
        saved = self._run_in(path)
        if differing := [key for key in self._run if saved.get(key) != self._run[key]]:
            was = ", ".join(f"{key} was {saved.get(key)!r} and is {self._run[key]!r}" for key in differing)
            raise UsageError(f"{path} belongs to another run: {was}. Repeat its options, or choose another --output.")
        read_state(state, storage_reader=HuggingFaceStorageReader(str(path)))

    def _run_in(self, path: Path) -> dict[str, Any]:
        try:
            run: dict[str, Any] = json.loads((path / "run.json").read_text())
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"Rank {self._world.rank} does not see {path}, which rank 0 sees; --output must be a shared folder."
            ) from error
        return run

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step:06d}"

    def _steps(self) -> list[int]:
        return [int(path.name.removeprefix("step-")) for path in self._folder.glob("step-*") if path.suffix == ""]
