"""The room `sparse`: all-reduce of tensors of which each rank has only a few rows.

    y = merak.sparse.all_reduce(x)        # x: sparse COO, or dense with rows of zeros; y: laid out alike
    ddp.register_comm_hook(merak.sparse.HookState(), merak.sparse.exact_hook)

Every rank tells the others in a bitmap which rows it has; from these all of them make the same plan, and what then
crosses the network is rows. Every row arrives, and the sum is the same bits on every rank. Which method "auto" takes
depends on what was measured: for the same bits from run to run name a method, or call
`torch.use_deterministic_algorithms(True)`.
"""

from merak.sparse.codec import SketchCodec
from merak.sparse.hooks import HookState, SketchState, TopKState, exact_hook, sketch_hook, topk_hook
from merak.sparse.operations import (
    Method,
    Plan,
    Statistics,
    all_reduce,
    all_reduce_coalesced,
    calibrate,
    explain,
    statistics,
)

__all__ = [
    "HookState",
    "Method",
    "Plan",
    "SketchCodec",
    "SketchState",
    "Statistics",
    "TopKState",
    "all_reduce",
    "all_reduce_coalesced",
    "calibrate",
    "exact_hook",
    "explain",
    "sketch_hook",
    "statistics",
    "topk_hook",
]
