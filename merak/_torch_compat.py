"""Everything that depends on which torch is installed, or that torch calls private.

A new torch should break this file and no other.
"""

from __future__ import annotations

import datetime
import os

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Backend as C10dBackend
from torch._C._distributed_c10d import GradBucket, PrefixStore, ProcessGroup, Store, TCPStore

__all__ = [
    "C10dBackend",
    "GradBucket",
    "ProcessGroup",
    "Store",
    "backend_below",
    "check_torch_matches_build",
    "make_nccl_backend",
    "name_in_use",
    "store_host",
    "torch_minor",
]


def torch_minor() -> str:
    """The installed torch as "major.minor", for example "2.15"."""
    return ".".join(torch.__version__.split(".")[:2])


def check_torch_matches_build() -> None:
    """Raises ImportError when `merak._C` is missing or was built for another minor version of torch.

    c10d has no stable ABI: a mismatch would crash later, in a place that explains nothing.
    """
    try:
        from merak._build_info import torch_minor as built
    except ImportError:
        raise ImportError(
            "merak's extension module has not been built. In a checkout run `make build`, or "
            "`pip install --no-build-isolation -e .`."
        ) from None
    if built != torch_minor():
        raise ImportError(
            f"merak was built for torch {built}, but torch {torch.__version__} is installed. Run "
            f"`pip install 'torch=={built}.*'` to go back to the torch it was built for, or build it again with "
            "`pip install --no-build-isolation --no-cache-dir --force-reinstall --no-deps torch-merak` "
            "(in a checkout: `make build`)."
        )


def name_in_use(backend_options: object) -> str:
    """Under which name merak serves a group: "merak", or another that was registered for merak's creator.

    Args:
        backend_options: torch's description of the group; where it does not tell (torch 2.11), the name is "merak".
    """
    group: ProcessGroup | None = getattr(backend_options, "process_group", None)
    if group is None:
        return "merak"
    backend = dist.distributed_c10d.Backend
    creator = backend._plugins["MERAK"].creator_fn
    names = {name.lower() for name, plugin in backend._plugins.items() if plugin.creator_fn is creator}
    name: str = group.name()
    return name if name in names else "merak"


def store_host(store: Store) -> str | None:
    """Name or address of the host that serves the store, None when the store has none."""
    while isinstance(store, PrefixStore):
        store = store.underlying_store
    if isinstance(store, TCPStore):
        host: str = store.host
        return host
    return os.environ.get("MASTER_ADDR")


def backend_below(group: ProcessGroup | None, device: str) -> C10dBackend:
    """What serves a group's tensors on a device, without torch's wrapper of TORCH_DISTRIBUTED_DEBUG=DETAIL.

    Args:
        group: None for the default group.
    Raises:
        ValueError: there is no such group.
        RuntimeError: the group has no backend for that device.
    """
    found = group if group is not None else dist.distributed_c10d._get_default_group()
    below = found._get_backend(torch.device(device))
    wrapper = getattr(dist.distributed_c10d, "_ProcessGroupWrapper", None)
    return below.wrapped_pg if wrapper is not None and isinstance(below, wrapper) else below


def make_nccl_backend(
    store: Store, rank: int, size: int, timeout: datetime.timedelta, group: str, options: object
) -> C10dBackend:
    """The backend for the CUDA tensors of one of merak's groups.

    Args:
        options: the user's `pg_options`, used when they are NCCL's.
    Raises:
        ValueError: this torch has no NCCL.
    """
    if not dist.is_nccl_available():
        raise ValueError(
            f"group '{group}' was given tensors on cuda, which merak hands to NCCL, but this torch "
            f"({torch.__version__}) was built without NCCL. Move the tensors to the CPU, or install a torch with CUDA."
        )
    nccl = dist.distributed_c10d.ProcessGroupNCCL
    nccl_options = options if isinstance(options, nccl.Options) else nccl.Options()
    nccl_options._timeout = timeout
    return nccl(PrefixStore("nccl/", store), rank, size, nccl_options)
