"""merak: a torch.distributed backend for clusters whose network is the bottleneck.

    torch.distributed.init_process_group("merak")

With torch 2.14 or newer that is all. Older versions find the backend at `import torch`, unless
TORCH_DEVICE_BACKEND_AUTOLOAD=0 is set; then, say `import merak` first.

The rooms (`merak.backend`, ...) are imported when they are first used.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

import _merak_autoload
from merak._torch_compat import check_torch_matches_build
from merak._version import __version__

if TYPE_CHECKING:
    from merak import backend, embedding, sparse

__all__ = ["__version__", "backend", "embedding", "sparse"]

_ROOMS = ("backend", "embedding", "sparse")

check_torch_matches_build()
_merak_autoload.register()


def __getattr__(name: str) -> ModuleType:
    if name in _ROOMS:
        return importlib.import_module(f"merak.{name}")
    raise AttributeError(f"module 'merak' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS})
