"""Tells torch that a backend named "merak" exists.

torch calls `register` through an entry point: at the end of `import torch` (group `torch.backends`), and from 2.14 on
also when the name "merak" is first used (group `torch.distributed.backends`). It lies outside the package `merak`
because torch must be able to import it while `import merak` is itself still importing torch, and because
`import torch` alone must not import merak. It loads no C++; merak follows when the first group is created.
"""

from __future__ import annotations

import logging
from typing import Any


def create(backend_options: Any, group_options: Any) -> Any:
    """Creates this rank's backend of one process group.

    Args:
        backend_options: torch's description of the group: store, rank, size, timeout, name.
        group_options: the `pg_options` the user passed, or None.
    """
    import merak.backend

    return merak.backend.create(backend_options, group_options)


def register() -> None:
    """Registers the backend "merak" for CPU and CUDA tensors; once, however often it is called.

    Never raises: an exception here would make `import torch` fail for users who may not even want merak.
    """
    try:
        import torch.distributed

        if not torch.distributed.is_available():
            return
        from torch.distributed.distributed_c10d import Backend

        if not hasattr(Backend, "MERAK"):
            # Without `devices` torch warns; naming them does not displace gloo and nccl as their defaults.
            Backend.register_backend("merak", create, extended_api=True, devices=["cpu", "cuda"])
    except Exception:
        logging.getLogger("merak").warning("the backend 'merak' could not be registered", exc_info=True)
