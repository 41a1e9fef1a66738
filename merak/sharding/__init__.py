"""The room `sharding`: a few annotations say how tensors are divided over a mesh; the rest follows.

wishes = [sharding.batch("dp"), sharding.megatron("tp")]
completion = sharding.complete(model, batch, mesh={"dp": 2, "tp": 4}, annotations=wishes)
print(completion.explain())
divided = sharding.ShardedModule(model, completion, device_mesh)
"""

from merak.sharding.annotations import Annotation, Dim, Tactic, annotate
from merak.sharding.completion import Completion, Reshard, complete
from merak.sharding.module import ShardedModule
from merak.sharding.tactics import batch, from_tp_plan, megatron, sequence, spatial, zero

__all__ = [
    "Annotation",
    "Completion",
    "Dim",
    "Reshard",
    "ShardedModule",
    "Tactic",
    "annotate",
    "batch",
    "complete",
    "from_tp_plan",
    "megatron",
    "sequence",
    "spatial",
    "zero",
]
