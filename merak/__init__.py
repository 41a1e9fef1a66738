"""merak: a torch.distributed backend for clusters whose network is the bottleneck.

    torch.distributed.init_process_group("merak")

With torch 2.14 or newer that is all. Older versions find the backend at `import torch`, unless
TORCH_DEVICE_BACKEND_AUTOLOAD=0 is set; then, say `import merak` first.

The rooms (`merak.backend`, ...) are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import _merak_autoload
from merak._torch_compat import check_torch_matches_build
from merak._version import __version__

if TYPE_CHECKING:
    from merak import backend, embedding, engine, graph, hf, pipeline, resharding, sparse
    from merak.engine import Plan, parallelize
    from merak.resharding import plan_reshard, redistribute, reshard_state_dict

__all__ = [
    "Plan",
    "__version__",
    "backend",
    "embedding",
    "engine",
    "graph",
    "hf",
    "parallelize",
    "pipeline",
    "plan_reshard",
    "redistribute",
    "reshard_state_dict",
    "resharding",
    "sparse",
]

_ROOMS = ("backend", "embedding", "engine", "graph", "hf", "pipeline", "resharding", "sharding", "sparse")
_FUNCTIONS = {
    "Plan": "engine",
    "parallelize": "engine",
    "plan_reshard": "resharding",
    "redistribute": "resharding",
    "reshard_state_dict": "resharding",
}
"""What users reach without naming its room."""

check_torch_matches_build()
_merak_autoload.register()


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"merak.{name}")
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(f"merak.{_FUNCTIONS[name]}"), name)
    raise AttributeError(f"module 'merak' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS, *_FUNCTIONS})
