"""Data efficiency: curriculum sampling, and random layerwise token dropping. Needs no other room, nor a group.

merak.data.analyze(dataset, ["vocabulary_rarity"], output="index")
sampler = merak.data.CurriculumSampler("index", {"vocabulary_rarity": pacing}, batch_size=512)
ltd = merak.data.RandomLTD(model, schedule=merak.data.KeepSchedule(start=64, steps=700))
"""

from merak.data.analysis import analyze
from merak.data.counters import Counters, StepFlops, step_flops
from merak.data.index import MetricIndex
from merak.data.loader import CurriculumLoader
from merak.data.megatron import MegatronDataset, MegatronWriter
from merak.data.pacing import KeepSchedule, Pacing
from merak.data.random_ltd import RandomLTD
from merak.data.sampler import Batch, BatchState, CurriculumSampler
from merak.data.token_lr import LayerTokenLR
from merak.data.tokens import apply_to_tokens, gather_tokens, keep_tokens, place_tokens, scatter_tokens
from merak.data.transforms import ReshapeLength, TruncateLength

__all__ = [
    "Batch",
    "BatchState",
    "Counters",
    "CurriculumLoader",
    "CurriculumSampler",
    "KeepSchedule",
    "LayerTokenLR",
    "MegatronDataset",
    "MegatronWriter",
    "MetricIndex",
    "Pacing",
    "RandomLTD",
    "ReshapeLength",
    "StepFlops",
    "TruncateLength",
    "analyze",
    "apply_to_tokens",
    "gather_tokens",
    "keep_tokens",
    "place_tokens",
    "scatter_tokens",
    "step_flops",
]
