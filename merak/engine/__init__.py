"""The room `engine`: a plain model becomes one that many ranks train.

plan = merak.Plan(dp=2, pp=2, microbatches=8, schedule="shifted", recompute=1.0)
engine = merak.parallelize(model, plan, batch, optimizer=lambda parameters: AdamW(parameters))
loss = engine.train_step(batch)
"""

from merak.engine.assemble import parallelize
from merak.engine.checkpoint import load_into
from merak.engine.engine import Engine, Evaluation
from merak.planner import Plan

__all__ = ["Engine", "Evaluation", "Plan", "load_into", "parallelize"]
