"""The room `planner`: which plan trains a model fastest on a cluster.

cluster = merak.Cluster.uniform("A100-40GB", hosts=8, devices_per_host=8, inside="NVLink3", between="100Gbit/s")
found = merak.plan(model, batch, cluster, rows=512, precision="bf16")
print(found.explain())
engine = merak.parallelize(model, found, batch, optimizer=lambda parameters: AdamW(parameters))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from merak.planner.calibration import calibrate
    from merak.planner.cluster import Cluster, Group
    from merak.planner.device import Device
    from merak.planner.found import Found
    from merak.planner.link import Link
    from merak.planner.plan import Plan
    from merak.planner.prediction import Prediction, predict
    from merak.planner.prices import Prices
    from merak.planner.search import NothingFitsError, find_plan
    from merak.planner.workload import Workload

_MODULES = {
    "Cluster": "cluster",
    "Device": "device",
    "Found": "found",
    "Group": "cluster",
    "Link": "link",
    "NothingFitsError": "search",
    "Plan": "plan",
    "Prediction": "prediction",
    "Prices": "prices",
    "Workload": "workload",
    "calibrate": "calibration",
    "find_plan": "search",
    "predict": "prediction",
}
"""By name, where it is. Modules are imported when they are first asked for: `merak bench` wants the parser of
calibration only, and not all that finds plans."""

__all__ = [
    "Cluster",
    "Device",
    "Found",
    "Group",
    "Link",
    "NothingFitsError",
    "Plan",
    "Prediction",
    "Prices",
    "Workload",
    "calibrate",
    "find_plan",
    "predict",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"merak.planner.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'merak.planner' has no attribute {name!r}")
