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
    from merak import backend, data, embedding, engine, graph, hf, pipeline, planner, resharding, sharding, sparse
    from merak.engine import Plan, parallelize
    from merak.planner import Cluster
    from merak.planner import find_plan as plan
    from merak.resharding import plan_reshard, redistribute, reshard_state_dict

__all__ = [
    "Cluster",
    "Plan",
    "__version__",
    "backend",
    "data",
    "embedding",
    "engine",
    "graph",
    "hf",
    "parallelize",
    "pipeline",
    "plan",
    "plan_reshard",
    "planner",
    "redistribute",
    "reshard_state_dict",
    "resharding",
    "sharding",
    "sparse",
]

_ROOMS = (
    "backend",
    "data",
    "embedding",
    "engine",
    "graph",
    "hf",
    "pipeline",
    "planner",
    "resharding",
    "sharding",
    "sparse",
)
_FUNCTIONS = {
    "Cluster": ("planner", "Cluster"),
    "Plan": ("planner", "Plan"),
    "parallelize": ("engine", "parallelize"),
    "plan": ("planner", "find_plan"),
    "plan_reshard": ("resharding", "plan_reshard"),
    "redistribute": ("resharding", "redistribute"),
    "reshard_state_dict": ("resharding", "reshard_state_dict"),
}
"""What users reach without naming its room."""

check_torch_matches_build()
_merak_autoload.register()


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"merak.{name}")
    if name in _FUNCTIONS:
        room, function = _FUNCTIONS[name]
        return getattr(importlib.import_module(f"merak.{room}"), function)
    raise AttributeError(f"module 'merak' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS, *_FUNCTIONS})
