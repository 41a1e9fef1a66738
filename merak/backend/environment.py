"""What was built, what was found, and what would be chosen: the facts behind `merak env`."""

from __future__ import annotations

import os
import platform
from typing import TypedDict

import torch
import torch.distributed as dist

from merak import _C, _build_info
from merak._version import __version__

_READ_BY_THE_BUILD = {"MERAK_CUDA"}


class Build(TypedDict):
    """How merak._C was built."""

    torch: str
    cuda: str | None
    cuda_architectures: str | None
    compiler: str
    cxx_standard: str


class Found(TypedDict):
    """The software and hardware here."""

    python: str
    system: str
    torch: str
    torch_cuda: str | None
    nccl: str | None
    cuda_devices: list[str]
    cpus: int
    interfaces: dict[str, list[str]]  # name: numeric addresses


class Chosen(TypedDict):
    """What merak would do in a group that was created now."""

    cuda_tensors: str
    listening_address: str
    host_identity: str


class Variable(TypedDict):
    """An environment variable that merak reads."""

    type: str
    default: str
    doc: str
    value: str | None  # as set; None when it is not
    problem: str  # why the value cannot be used; "" when it can


class Report(TypedDict):
    """Everything that a report of a bug should say."""

    merak: str
    build: Build
    found: Found
    chosen: Chosen
    variables: dict[str, Variable]
    unknown_variables: list[str]  # set, with names that begin with MERAK_, but nothing reads them


def report() -> Report:
    """Collects the facts; creates no group and connects to nobody."""
    variables = _variables()
    return {
        "merak": __version__,
        "build": _build(),
        "found": _found(),
        "chosen": _chosen(),
        "variables": variables,
        "unknown_variables": sorted(
            name
            for name in os.environ
            if name.startswith("MERAK_") and name not in variables.keys() | _READ_BY_THE_BUILD
        ),
    }


def _variables() -> dict[str, Variable]:
    return {
        name: {"type": kind, "default": default, "doc": doc, "value": value, "problem": problem}
        for name, kind, default, doc, value, problem in _C.environment_variables()
    }


def _build() -> Build:
    return {
        "torch": _build_info.torch_version,
        "cuda": _build_info.cuda,
        "cuda_architectures": _build_info.cuda_arch_list,
        "compiler": _build_info.compiler,
        "cxx_standard": _build_info.cxx_standard,
    }


def _found() -> Found:
    interfaces: dict[str, list[str]] = {}
    for name, address in _C.network_interfaces():
        interfaces.setdefault(name, []).append(address)
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "nccl": _nccl_version(),
        "cuda_devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "cpus": len(os.sched_getaffinity(0)),
        "interfaces": interfaces,
    }


def _nccl_version() -> str | None:
    if not (dist.is_available() and dist.is_nccl_available()):
        return None
    return ".".join(str(part) for part in torch.cuda.nccl.version())


def _chosen() -> Chosen:
    return {
        "cuda_tensors": _cuda_tensors(),
        "listening_address": _listening_address(),
        "host_identity": _C.host_identity(),
    }


def _cuda_tensors() -> str:
    if not dist.is_nccl_available():
        return "refused: this torch was built without NCCL"
    if not torch.cuda.is_available():
        return "none here: torch finds no CUDA device"
    return "over NCCL"


def _listening_address() -> str:
    try:
        return _C.listening_address(os.environ.get("MASTER_ADDR", ""))
    except ValueError as error:  # a variable asks for what this host does not have
        return f"none: {error}"
