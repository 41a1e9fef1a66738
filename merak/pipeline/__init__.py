"""The room `pipeline`: schedules of pipelined training steps, made, checked, simulated and run.

    schedule = Schedule.make("eager", stages=4, microbatches=32)
    schedule.check()
    print(schedule.simulate(Costs(forward=1, backward=2, message=0.5)).seconds)

A schedule is a list of actions for each rank: forwards, backwards, recomputes, sends, receives. What makes and judges
such lists is C++ and moves nothing.
"""

from merak.pipeline.schedule import KINDS, Action, Schedule
from merak.pipeline.simulation import Costs, Simulation
from merak.pipeline.torch_schedules import torch_schedule

__all__ = ["KINDS", "Action", "Costs", "Schedule", "Simulation", "torch_schedule"]
