"""Parameters of a model on the meta device: made and initialised on the rank that owns them, and nowhere else.

A model built under `torch.device("meta")` has shapes and no memory. What a rank owns gets memory, and the value that
the model's own code would give it: Hugging Face's `_init_weights`, or `reset_parameters` of the module. The generator
is seeded by the parameter's name, and any plan starts from the same model.

Memory is filled with a mark first; what still bears it has no code that gives it a value, and is an error.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from merak.graph.randomness import generators_kept

_MARKS = {torch.bool: True, torch.uint8: 251}
_INTEGER_MARK = -86


def is_on_meta(model: nn.Module) -> bool:
    """Whether any of its parameters has no memory."""
    return any(parameter.is_meta for parameter in model.parameters())


def materialise(model: nn.Module, names: Iterable[str], seed: int, device: torch.device) -> None:
    """Gives parameters and buffers memory on a device, and their initial values.

    Args:
        names: of those to make; those that are there already are left alone.

    Raises:
        ValueError: naming those that no code of the model gives a value.
    """
    missing = [name for name in names if _get(model, name).is_meta]
    made = {name: _made(model, name, seed, device) for name in missing}
    if unknown := [name for name, tensor in made.items() if _is_marked(tensor)]:
        raise ValueError(
            f"the model is on the meta device, and nothing in it says what {', '.join(unknown)} should be: its modules "
            "have no `reset_parameters` that sets them. Build the model on a real device"
        )
    for name, tensor in made.items():
        _set_everywhere(model, _get(model, name), tensor)


@contextlib.contextmanager
def materialised(model: nn.Module, name: str, seed: int, device: torch.device) -> Iterator[torch.Tensor]:
    """A parameter or buffer; one without memory has it within. See `materialise`."""
    before = _get(model, name)
    materialise(model, [name], seed, device)
    now = _get(model, name)
    try:
        yield now
    finally:
        if now is not before:
            _set_everywhere(model, now, before)


def _made(model: nn.Module, name: str, seed: int, device: torch.device) -> torch.Tensor:
    """A tensor with the value that the model's code gives it. Its neighbours have no memory meanwhile, wherever they
    belong, so that as many random numbers are drawn before it on any rank."""
    before, made = _get(model, name), _marked(_get(model, name), device)
    _set_everywhere(model, before, made)
    with generators_kept(device), torch.no_grad():
        for initialise in _initialisers(model, name):
            torch.manual_seed(_seed_of(seed, name))
            initialise()
    made = _get(model, name)
    _set_everywhere(model, made, before)
    return made


def _initialisers(model: nn.Module, name: str) -> Iterator[Callable[[], Any]]:
    """What to call for a parameter, from its module up to the model."""
    path = name.split(".")[:-1]
    of_model = getattr(model, "_init_weights", None)
    for depth in range(len(path), -1, -1):
        module = model.get_submodule(".".join(path[:depth]))
        if of_model is not None:
            yield partial(of_model, module)
        elif callable(getattr(module, "reset_parameters", None)):
            yield partial(_reset, module)


def _reset(module: nn.Module) -> None:
    module.reset_parameters()  # type: ignore[operator]


def _marked(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    made = torch.empty_like(tensor, device=device)
    real = tensor.is_floating_point() or tensor.is_complex()
    made.fill_(float("nan") if real else _MARKS.get(tensor.dtype, _INTEGER_MARK))
    return nn.Parameter(made, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made


def _is_marked(tensor: torch.Tensor) -> bool:
    if tensor.numel() == 0:
        return False
    if tensor.is_floating_point() or tensor.is_complex():
        return bool(tensor.isnan().any())
    return bool((tensor == _MARKS.get(tensor.dtype, _INTEGER_MARK)).all())


def _get(model: nn.Module, name: str) -> torch.Tensor:
    module, _, key = name.rpartition(".")
    tensor: torch.Tensor = getattr(model.get_submodule(module), key)
    return tensor


def _set_everywhere(model: nn.Module, old: torch.Tensor, new: torch.Tensor) -> None:
    """In every module that has the tensor: tied parameters stay tied."""
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for key, tensor in held.items():
                if tensor is old:
                    held[key] = new  # type: ignore[assignment]


def _seed_of(seed: int, name: str) -> int:
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "little")
