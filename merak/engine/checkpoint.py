"""Checkpoints, by `torch.distributed.checkpoint`, that any other plan can load.

A checkpoint holds tensors under names that do not depend on the plan: `model.<name>` for parameters and buffers under
the plain model's own names, `optimizer.<name>.<key>` for what the optimizer keeps of a parameter, and `progress`, a
JSON text as bytes: steps, loss scale, settings of the optimizer's groups, and what the caller adds, such as the place
in the data. Each rank writes what it has; what several have is written once. They are stored as safetensors, which hold
no pickle: reading a checkpoint from elsewhere runs no code of its author.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load as read_tensors
from torch.distributed.checkpoint.state_dict_saver import save as write_tensors

from merak.graph.capture import canonical_names

MODEL, OPTIMIZER, PROGRESS = "model", "optimizer", "progress"


def save(path: str | Path, tensors: Mapping[str, torch.Tensor], progress: Mapping[str, Any]) -> None:
    """Writes a checkpoint. Collective over all ranks."""
    text = torch.tensor(list(json.dumps(progress).encode()), dtype=torch.uint8)
    write_tensors(
        dict(tensors) | {PROGRESS: text},
        storage_writer=HuggingFaceStorageWriter(str(path), save_distributed=True),
        no_dist=not _distributed(),
    )


def load(path: str | Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Reads tensors by name, in place; returns what `progress` says. Collective.

    Raises:
        ValueError: there is no checkpoint, or it lacks some of them, or has them in other shapes.
    """
    if not Path(path).is_dir():
        raise ValueError(f"there is no checkpoint at {path}")
    reader = HuggingFaceStorageReader(str(path))
    known: dict[str, Any] = dict(reader.read_metadata().state_dict_metadata)
    if PROGRESS not in known:
        raise ValueError(f"{path} is no checkpoint of an engine: it has no {PROGRESS!r}")
    misfits = [name for name, one in tensors.items() if name not in known or known[name].size != one.shape]
    if misfits:
        raise ValueError(f"{path} is of another model: it lacks, or has in other shapes, {', '.join(misfits[:10])}")
    text = torch.empty(known[PROGRESS].size, dtype=torch.uint8)
    read_tensors(dict(tensors) | {PROGRESS: text}, storage_reader=reader, no_dist=not _distributed())
    progress: dict[str, Any] = json.loads(bytes(text.tolist()).decode())
    return progress


def load_into(model: nn.Module, path: str | Path) -> None:
    """Loads a checkpoint's parameters and buffers into a plain model: in one process, or on all ranks together.

    Raises:
        ValueError: there is no checkpoint, or it is of another model.
    """
    first = canonical_names(model)
    tensors = {first.get(name, name): one for name, one in model.state_dict().items() if isinstance(one, torch.Tensor)}
    load(path, {f"{MODEL}.{name}": tensor for name, tensor in tensors.items()})


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, torch.Tensor]:
    """What an optimizer keeps, by `<name>.<key>`; of one that has not stepped yet, what it would begin with."""
    if not optimizer.state:
        _begin(optimizer)
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in parameters.items()}
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
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in parameters.items()}
    found: dict[str, dict[str, Any]] = {}
    for group in optimizer.param_groups:
        settings = {
            key: value for key, value in group.items() if key not in ("params", "param_names") and _plain(value)
        }
        found |= {names[one]: settings for one in group["params"] if one in names}
    return found


def set_group_settings(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    settings: Mapping[str, Mapping[str, Any]],
) -> None:
    """Gives each group what `group_settings` has said of its parameters."""
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in parameters.items()}
    for group in optimizer.param_groups:
        for one in group["params"]:
            saved = settings.get(names.get(one, ""), {})
            group.update({key: tuple(value) if isinstance(value, list) else value for key, value in saved.items()})


def _begin(optimizer: torch.optim.Optimizer) -> None:
    """Makes an optimizer's state, by a step of zero gradients at a rate of zero; parameters stay as they are."""
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    values = [parameter.detach().clone() for parameter in held]
    rates = [group.get("lr") for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = torch.zeros_like(group["lr"]) if isinstance(group.get("lr"), torch.Tensor) else 0.0
        for parameter in group["params"]:
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    optimizer.zero_grad()
    with torch.no_grad():
        for parameter, value in zip(held, values, strict=True):
            parameter.copy_(value)


def _distributed() -> bool:
    return torch.distributed.is_initialized()


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
