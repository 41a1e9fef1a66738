"""Checkpoints that any other plan can load: safetensors, which hold no pickle, and a JSON text.

    checkpoint/checkpoint.json                     steps, loss scale, the optimizer's settings and numbers, `extra`
    checkpoint/tensors-3f2a9c01/shard-0000R-...    what rank R - 1 wrote, by `torch.distributed.checkpoint`

Names do not depend on the plan: `model.<name>` for parameters and buffers under the plain model's own names,
`optimizer.<name>.<key>` for what the optimizer keeps of a parameter. Each rank writes what it has; what several have is
written once. Reading a checkpoint from elsewhere runs no code of its author.

A save is seen when it is whole. A new folder is written beside its place and renamed; in one that is there already, the
text, which says where its tensors are, is replaced last. So there is the old checkpoint or the new one at any moment,
and what other saves have left is not read. A load changes nothing before all ranks have read all they need into memory
of the host.

What a rank cannot do, all ranks refuse, with what each of them says.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_saver import save as write_tensors

from merak._extras import require
from merak.engine.agreement import check_same, merge_on_all
from merak.graph.capture import canonical_names
from merak.sharding.divided import Division

MODEL, OPTIMIZER = "model", "optimizer"
FORMAT = 1
_TEXT, _FOLDER = "checkpoint.json", "tensors-"
_NO_SETTINGS = ("params", "param_names")
_SHOWN = 5
T = TypeVar("T")


@dataclass
class Part:
    """What a rank has.

    Attributes:
        model: of the model's state dict, by name.
        parameters: those that the optimizer updates, by name.
        division: which of both are parts of whole tensors; a checkpoint has these whole.
        device: where ranks exchange messages.
    """

    model: Mapping[str, torch.Tensor]
    optimizer: torch.optim.Optimizer
    parameters: Mapping[str, nn.Parameter]
    division: Division
    device: torch.device

    def tensors(self) -> dict[str, torch.Tensor]:
        """By the names that a checkpoint has. An optimizer that has not stepped has none. Collective over the ranks
        that share layers."""
        kept = {
            f"{OPTIMIZER}.{name}.{key}": self._whole(name, value)
            for name, state in self.states().items()
            for key, value in state.items()
            if isinstance(value, torch.Tensor)
        }
        model = {f"{MODEL}.{name}": self.division.whole(name, tensor.detach()) for name, tensor in self.model.items()}
        return model | kept

    def _whole(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """What the optimizer keeps of a parameter: a value for each element, or one."""
        return self.division.whole(name, value) if value.shape == self.parameters[name].shape else value

    def check_divisible(self, name: str, state: Mapping[str, Any]) -> None:
        """Refuses what an optimizer keeps of a part that is neither of its shape nor one number: nobody could tell what
        the whole of it is."""
        parameter = self.parameters[name]
        for key, value in state.items():
            fits = not isinstance(value, torch.Tensor) or value.numel() == 1 or value.shape == parameter.shape
            if not fits and self.division.divides(name):
                raise ValueError(
                    f"the optimizer keeps {key} of shape {tuple(value.shape)} of {name}, of which this rank has a part "
                    f"of shape {tuple(parameter.shape)}: with tp, use an optimizer that keeps a value for each element"
                )

    def shapes(self) -> dict[str, list[int]]:
        """Of the model's whole tensors."""
        return {name: self.division.shape(name, tensor) for name, tensor in self.model.items()}

    def states(self) -> dict[str, dict[str, Any]]:
        """What the optimizer keeps, by parameter's name."""
        names: dict[Any, str] = {parameter: name for name, parameter in self.parameters.items()}
        return {names[one]: state for one, state in self.optimizer.state.items() if one in names}

    def groups(self) -> dict[str, dict[str, Any]]:
        """The optimizer's groups by parameter's name: groups differ between ranks, names do not."""
        names: dict[Any, str] = {parameter: name for name, parameter in self.parameters.items()}
        return {names[one]: group for group in self.optimizer.param_groups for one in group["params"] if one in names}


def save(path: str | Path, part: Part, progress: Mapping[str, Any]) -> None:
    """Writes a checkpoint, in place of one that is there. Collective over all ranks.

    Args:
        progress: what `load` is to give back, as JSON holds it, with the user's `extra`; rank 0's.

    Raises:
        ValueError: some rank cannot write, or has what a checkpoint cannot hold; what was there before is as it was.
    """
    path = Path(path).resolve()
    what = f"no checkpoint was written to {path}"
    record = on_all(lambda: _describe(part, progress), what, part.device)
    parameters = merge_on_all(record.pop("parameters"), part.device)
    chosen = merge_on_all({"inside": path.is_dir(), "folder": _FOLDER + secrets.token_hex(4)}, part.device)
    base, folder = path if chosen["inside"] else path.with_name(f"{path.name}.partial"), chosen["folder"]
    text = json.dumps(record | {"format": FORMAT, "folder": folder, "parameters": parameters})
    leads = dist.get_rank() == 0
    try:
        on_all(lambda: _make(base / folder, alone=base != path) if leads else None, what, part.device)
        on_all(lambda: _check_seen(base / folder), what, part.device)
        _write(base / folder, part.tensors(), what)
        on_all(lambda: _commit(path, base, folder, text) if leads else None, what, part.device)
    except ValueError:
        if leads:
            shutil.rmtree(base / folder if base == path else base, ignore_errors=True)
        raise


def load(path: str | Path, part: Part) -> dict[str, Any]:
    """Reads a checkpoint into the model's tensors and the optimizer; returns what `progress` was. Collective.

    Raises:
        ValueError: there is no checkpoint, or it cannot be read, or is of another model or optimizer. Nothing is
            changed then.
    """
    path = Path(path)
    what = f"{path} was not loaded, and nothing has changed"
    saved = on_all(lambda: _Saved(path), what, part.device)
    check_same(saved.folder.name, f"checkpoints at {path}", part.device)
    shapes = merge_on_all(part.shapes(), part.device)
    found = on_all(lambda: _read(saved, shapes, part), what, part.device)
    with torch.no_grad():
        for name, tensor in part.model.items():
            tensor.copy_(part.division.part(name, found[f"{MODEL}.{name}"]))
    _restore(part, saved.parameters, found)
    return saved.progress


def load_into(model: nn.Module, path: str | Path) -> None:
    """Loads a checkpoint's parameters and buffers into a plain model: in one process, or on all ranks together.

    Raises:
        ValueError: there is no checkpoint, or it cannot be read, or is of another model. Nothing is changed then.
    """
    path, first = Path(path), canonical_names(model)
    tensors = {first[name]: one for name, one in model.state_dict().items() if name in first}
    device = next((one.device for one in tensors.values()), torch.device("cpu"))
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}

    def read() -> dict[str, torch.Tensor]:
        saved = _Saved(path)
        saved.check_model(shapes)
        return saved.read(f"{MODEL}.{name}" for name in tensors)

    found = on_all(read, f"{path} was not loaded, and nothing has changed", device)
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(found[f"{MODEL}.{name}"])


def on_all(action: Callable[[], T], what: str, device: torch.device) -> T:
    """What an action without communication gives, where it succeeds on all ranks; else all raise ValueError.

    Args:
        what: begins the error.
    """
    failure: Exception | None = None
    made: list[T] = []
    try:
        made.append(action())
    except Exception as error:  # whatever it is, the other ranks would wait for this one
        failure = error
    said = failures_of_all(failure, device)
    if not said:
        return made[0]
    same = len(set(said.values())) == 1 and len(said) == (dist.get_world_size() if dist.is_initialized() else 1)
    text = said[0] if same else "; ".join(f"rank {rank}: {one}" for rank, one in said.items())
    raise ValueError(f"{what}: {text}") from failure


def failures_of_all(failure: Exception | None, device: torch.device) -> dict[int, str]:
    """What has failed on which ranks, in words. Collective over all ranks, if there are several."""
    together = dist.is_initialized()
    mine = {} if failure is None else {str(dist.get_rank() if together else 0): _in_words(failure)}
    said: dict[str, str] = merge_on_all(mine, device) if together else mine
    return {rank: said[str(rank)] for rank in sorted(map(int, said))}


class _Saved:
    """A checkpoint on disk, of which the text and the tensors' names and shapes have been read.

    Raises:
        ValueError: there is none, or it is damaged.
    """

    def __init__(self, path: Path) -> None:
        if not (path / _TEXT).is_file():
            raise ValueError(f"there is no checkpoint at {path} (it would have a {_TEXT})")
        try:
            record: dict[str, Any] = json.loads((path / _TEXT).read_bytes())
            known, self.folder = record["format"], path / record["folder"]
            self.optimizer: str = record["optimizer"]
            self.parameters: dict[str, dict[str, Any]] = record["parameters"]
            self.progress: dict[str, Any] = record["progress"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(_damaged(path / _TEXT, error)) from error
        if known != FORMAT:
            raise ValueError(f"{path / _TEXT} has format {known}, this merak reads {FORMAT}: use the one that wrote it")
        self._open = require("safetensors", extra="hf").safe_open
        self._files: dict[str, Path] = {}
        self._shapes: dict[str, list[int]] = {}
        for file in sorted(self.folder.glob("*.safetensors")):
            self._look_into(file)
        if lost := [name for name in self._promised() if name not in self._files]:
            raise ValueError(f"{path} is damaged: it has lost {_some(lost)}. Copy it again, or load another checkpoint")

    def check_model(self, shapes: Mapping[str, list[int]]) -> None:
        """Refuses a checkpoint of another model than the one with these tensors."""
        prefix = f"{MODEL}."
        here = {name.removeprefix(prefix): shape for name, shape in self._shapes.items() if name.startswith(prefix)}
        problems = {
            "it lacks": [name for name in shapes if name not in here],
            "the model has no": [name for name in here if name not in shapes],
            "other shapes have": [
                f"{name} ({here[name]}, in the model {shape})"
                for name, shape in shapes.items()
                if name in here and here[name] != shape
            ],
        }
        if any(problems.values()):
            text = "; ".join(f"{problem} {_some(names)}" for problem, names in problems.items() if names)
            raise ValueError(f"{self.folder.parent} is of another model: {text}. Make the model that was saved")

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Tensors by name, in new memory of the host."""
        by_file: dict[Path, list[str]] = {}
        for name in names:
            by_file.setdefault(self._files[name], []).append(name)
        found: dict[str, torch.Tensor] = {}
        for file, members in by_file.items():
            try:
                with self._open(file, framework="pt") as tensors:
                    found |= {name: tensors.get_tensor(name) for name in members}
            except Exception as error:  # safetensors' own, or the file system's
                raise ValueError(_damaged(file, error)) from error
        return found

    def _look_into(self, file: Path) -> None:
        try:
            with self._open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (it is no dict)
                    self._files[name], self._shapes[name] = file, tensors.get_slice(name).get_shape()
        except Exception as error:  # safetensors' own, or the file system's
            raise ValueError(_damaged(file, error)) from error

    def _promised(self) -> list[str]:
        return [f"{OPTIMIZER}.{name}.{key}" for name, one in self.parameters.items() for key in one["tensors"]]


def _describe(part: Part, progress: Mapping[str, Any]) -> dict[str, Any]:
    """What the text has of a rank: of each parameter the settings of its group, which of its state lies in tensors, and
    the state that is no tensor."""
    states, groups = part.states(), part.groups()
    known = {id(one) for group in part.optimizer.param_groups for one in group["params"]}
    if strange := [repr(key)[:50] for key, state in part.optimizer.state.items() if state and id(key) not in known]:
        raise ValueError(f"the optimizer has state of no parameter, under {_some(strange)}: it cannot be saved")
    parameters = {}
    for name, group in groups.items():
        state = states.get(name, {})
        numbers = {key: value for key, value in state.items() if not isinstance(value, torch.Tensor)}
        part.check_divisible(name, state)
        if odd := [str(key) for key, value in numbers.items() if not isinstance(key, str) or not _plain(value)]:
            raise ValueError(f"the optimizer keeps {_some(odd)} of {name}, which is no tensor, number or text")
        parameters[name] = {
            # What is left out comes from the code that makes the optimizer.
            "settings": {key: _to_plain(one) for key, one in group.items() if key not in _NO_SETTINGS and _plain(one)},
            "tensors": [key for key in state if key not in numbers],
            "numbers": _to_plain(numbers)["dict"],
        }
    try:
        progress = {**progress, "extra": dict(progress["extra"])}
        json.dumps(progress)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`extra` is to be a dict of numbers, text, lists and dicts, for JSON: {error}") from error
    kind = type(part.optimizer).__qualname__
    return {"optimizer": kind, "parameters": parameters, "progress": progress}


def _read(saved: _Saved, shapes: Mapping[str, list[int]], part: Part) -> dict[str, torch.Tensor]:
    """What a rank needs of a checkpoint, which must be of the model with these tensors and of the same optimizer."""
    saved.check_model(shapes)
    kind = type(part.optimizer).__qualname__
    if saved.optimizer != kind:
        raise ValueError(
            f"it was trained by {saved.optimizer}, and this engine's optimizer is {kind}: make the same, or "
            "take the model alone (merak.engine.load_into, before parallelize)"
        )
    mine = [(name, saved.parameters[name]) for name in part.parameters if name in saved.parameters]
    kept = [f"{OPTIMIZER}.{name}.{key}" for name, one in mine for key in one["tensors"]]
    return saved.read([*(f"{MODEL}.{name}" for name in part.model), *kept])


def _restore(part: Part, saved: Mapping[str, Mapping[str, Any]], found: Mapping[str, torch.Tensor]) -> None:
    """Gives an optimizer the state and the settings of a checkpoint."""
    for name, group in part.groups().items():
        parameter, one = part.parameters[name], saved.get(name, {"settings": {}, "tensors": [], "numbers": {}})
        for key, value in one["settings"].items():
            old, new = group.get(key), _from_plain(value)
            group[key] = new.to(old.device) if isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor) else new
        # As in torch's own `load_state_dict`: Adam counts on the host, unless told otherwise.
        counts_here = group.get("capturable") or group.get("fused")
        state = {key: _from_plain(value) for key, value in one["numbers"].items()}
        for key in one["tensors"]:
            tensor = found[f"{OPTIMIZER}.{name}.{key}"]
            if list(tensor.shape) == part.division.shape(name, parameter):
                tensor = part.division.part(name, tensor)
            state[key] = tensor if key == "step" and not counts_here else tensor.to(parameter.device)
        part.optimizer.state.pop(parameter, None)
        if state:
            part.optimizer.state[parameter] = state


def _make(folder: Path, alone: bool) -> None:
    if alone and folder.parent.exists():
        shutil.rmtree(folder.parent)  # of a save that was killed
    folder.mkdir(parents=True)


def _check_seen(folder: Path) -> None:
    if not folder.is_dir():
        raise ValueError(f"{folder} of rank 0 is not seen here: give a path that is the same folder for all ranks")


def _write(folder: Path, tensors: dict[str, torch.Tensor], what: str) -> None:
    try:
        write_tensors(tensors, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except CheckpointException as error:  # which all ranks raise
        said = "; ".join(f"rank {rank}: {_in_words(failure[0])}" for rank, failure in sorted(error.failures.items()))
        raise ValueError(f"{what}: {said}") from error


def _commit(path: Path, base: Path, folder: str, text: str) -> None:
    """Puts a checkpoint that is whole in its place."""
    new = base / f"{_TEXT}.partial"
    with new.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(base / _TEXT)
    if base != path:
        base.rename(path)
    for old in path.glob(f"{_FOLDER}*"):
        if old.name != folder:
            shutil.rmtree(old, ignore_errors=True)


def _plain(value: Any) -> bool:
    """Whether `_to_plain` makes JSON of it that comes back the same."""
    if isinstance(value, list | tuple):
        return all(_plain(one) for one in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _plain(one) for key, one in value.items())
    if isinstance(value, torch.Tensor):
        return value.numel() == 1 and not value.is_complex()
    return value is None or isinstance(value, bool | int | float | str)


def _to_plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_to_plain(one) for one in value]
    if isinstance(value, tuple):
        return {"tuple": [_to_plain(one) for one in value]}
    if isinstance(value, dict):
        return {"dict": {key: _to_plain(one) for key, one in value.items()}}
    if isinstance(value, torch.Tensor):
        return {"tensor": value.tolist(), "dtype": str(value.dtype).removeprefix("torch.")}
    return value


def _from_plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_plain(one) for one in value]
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(_from_plain(one) for one in value["tuple"])
    if "dict" in value:
        return {key: _from_plain(one) for key, one in value["dict"].items()}
    return torch.tensor(value["tensor"], dtype=getattr(torch, value["dtype"]))


def _damaged(file: Path, error: Exception) -> str:
    return f"{file} is damaged ({_in_words(error)}): copy the checkpoint again, or load another one"


def _in_words(error: BaseException) -> str:
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(map(str, names[:_SHOWN])) + (f" and {more} more" if more > 0 else "")
