"""The room `planner`: which plan trains a model fastest on a cluster.

cluster = merak.Cluster.uniform("A100-40GB", hosts=8, devices_per_host=8, inside="NVLink3", between="100Gbit/s")
found = merak.plan(model, batch, cluster, rows=512, precision="bf16")
print(found.explain())
engine = merak.parallelize(model, found, batch, optimizer=lambda parameters: AdamW(parameters))
"""

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
