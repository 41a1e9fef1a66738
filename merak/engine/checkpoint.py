"""Checkpoints, by `torch.distributed.checkpoint`, that any other plan can load.

A checkpoint holds tensors under names that do not depend on the plan: `model.<name>` for parameters and buffers under
the plain model's own names, `optimizer.<name>.<key>` for what the optimizer keeps of a parameter, and `progress`, a JSON
text as bytes: steps, loss scale, settings of the optimizer's groups, and what the caller adds, such as the place in the
data. Each rank writes what it has; what several have is written once.

Into the plain model: `Engine.load_into(model, path)`, or `torch.distributed.checkpoint.load` with `model.` before names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn

from merak.graph.capture import canonical_names

MODEL, OPTIMIZER, PROGRESS = "model", "optimizer", "progress"


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, torch.Tensor]:
    """What an optimizer keeps, by `<name>.<key>`. The parameters' names are those given."""
    names = {parameter: name for name, parameter in parameters.items()}
    return {
        f"{names[parameter]}.{key}": value
        for parameter, state in optimizer.state.items()
        if parameter in names
        for key, value in state.items()
        if isinstance(value, torch.Tensor)
    }


def group_settings(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, dict[str, Any]]:
    """Settings (learning rate, ...) by parameter's name: groups differ between ranks, names do not."""
    names = {parameter: name for name, parameter in parameters.items()}
    found = {}
    for group in optimizer.param_groups:
        settings = {key: value for key, value in group.items() if key not in ("params", "param_names") and _plain(value)}
        found |= {names[one]: settings for one in group["params"] if one in names}
    return found


def save(path: str | Path, tensors: Mapping[str, torch.Tensor], progress: Mapping[str, Any]) -> None:
    """Writes a checkpoint. Collective over all ranks."""
    dcp.save(dict(tensors) | {PROGRESS: _bytes_of(progress)}, checkpoint_id=str(path))


def read_progress(path: str | Path) -> dict[str, Any]:
    """What a checkpoint's `progress` says."""
    size = metadata_of(path).get(PROGRESS)
    if size is None:
        raise ValueError(f"{path} is no checkpoint of an engine: it has no {PROGRESS!r}")
    text = torch.empty(size.size, dtype=torch.uint8)
    dcp.load({PROGRESS: text}, checkpoint_id=str(path))
    progress: dict[str, Any] = json.loads(bytes(text.tolist()).decode())
    return progress


def metadata_of(path: str | Path) -> dict[str, Any]:
    """By name of a tensor: what the checkpoint says of it (`size`, `properties.dtype`)."""
    if not Path(path).is_dir():
        raise ValueError(f"there is no checkpoint at {path}")
    return dict(dcp.FileSystemReader(str(path)).read_metadata().state_dict_metadata)


def load_tensors(path: str | Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Reads tensors by name, in place. Collective.

    Raises:
        ValueError: the checkpoint lacks some, or has them in other shapes.
    """
    metadata = metadata_of(path)
    misfits = [name for name, tensor in tensors.items() if name not in metadata or metadata[name].size != tensor.shape]
    if misfits:
        raise ValueError(f"{path} is of another model: it lacks, or has in other shapes, {', '.join(misfits[:10])}")
    dcp.load(dict(tensors), checkpoint_id=str(path))


def load_optimizer(
    path: str | Path,
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    settings: Mapping[str, Mapping[str, Any]],
) -> None:
    """Gives an optimizer the state and settings of a checkpoint, for the parameters that it has. Collective."""
    metadata = metadata_of(path)
    wanted: dict[str, torch.Tensor] = {}
    for group in optimizer.param_groups:
        for name in (name for name, parameter in parameters.items() if any(parameter is one for one in group["params"])):
            group.update(settings.get(name, {}))
            prefix = f"{OPTIMIZER}.{name}."
            state = {}
            for key, about in metadata.items():
                if key.startswith(prefix) and "." not in key[len(prefix) :]:
                    device = parameters[name].device if about.size else torch.device("cpu")
                    wanted[key] = torch.empty(about.size, dtype=about.properties.dtype, device=device)
                    state[key[len(prefix) :]] = wanted[key]
            if state:
                optimizer.state[parameters[name]] = state
    dcp.load(wanted, checkpoint_id=str(path))


def load_into(model: nn.Module, path: str | Path) -> None:
    """Loads a checkpoint's parameters and buffers into a plain model, in one process or on every rank.

    Raises:
        ValueError: it is of another model.
    """
    tensors = {f"{MODEL}.{name}": tensor for name, tensor in _state_of(model).items()}
    canonical = {f"{MODEL}.{name}": f"{MODEL}.{first}" for name, first in canonical_names(model).items()}
    wanted = {canonical.get(name, name): tensor for name, tensor in tensors.items()}
    load_tensors(path, wanted)


def _state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}


def _bytes_of(progress: Mapping[str, Any]) -> torch.Tensor:
    return torch.tensor(list(json.dumps(progress).encode()), dtype=torch.uint8)


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
