"""The room `resharding`: tensors, and whole state dicts, from any mesh and layout to any other.

    y = merak.redistribute(x, mesh, placements)          # a DTensor, to any ranks
    merak.reshard_state_dict(trained, None)              # on the trainer's ranks
    merak.reshard_state_dict(None, served)               # on the generator's
    plan = merak.plan_reshard({...}); print(plan)        # what it would take, without communication

What has to go where is worked out from the layouts alone, by every rank for itself: who sends which part to whom,
along which chain of ranks and in what order, so that no link carries a byte twice and all of them are busy. The plan
says what it takes, and what no plan could take less than.
"""

from merak.resharding.guard import guard_dtensor
from merak.resharding.layout_files import read_layouts, save_layouts
from merak.resharding.operations import redistribute
from merak.resharding.plan import ReshardPlan, plan_reshard
from merak.resharding.state_dicts import reshard_state_dict
from merak.resharding.topology import Topology, calibrate
from merak.resharding.work import ReshardWork

__all__ = [
    "ReshardPlan",
    "ReshardWork",
    "Topology",
    "calibrate",
    "guard_dtensor",
    "plan_reshard",
    "read_layouts",
    "redistribute",
    "reshard_state_dict",
    "save_layouts",
]
