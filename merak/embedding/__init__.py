"""Embedding tables that are split over the ranks, by columns or by rows, inside data parallelism.

emb = merak.embedding.ShardedEmbedding(50_000, 512)
merak.embedding.shard(model)
"""

from merak.embedding.bag import ShardedEmbeddingBag
from merak.embedding.choosing import Choice, Frequencies, auto, frequencies
from merak.embedding.clipping import clip_grad_norm_
from merak.embedding.layerwise import LayerwiseOptimizer
from merak.embedding.look_ahead import LookAhead
from merak.embedding.module import ShardedEmbedding
from merak.embedding.optimizers import SGD, Adagrad, AdamW, RowWiseAdagrad
from merak.embedding.replacing import shard
from merak.embedding.states import save_whole

__all__ = [
    "SGD",
    "Adagrad",
    "AdamW",
    "Choice",
    "Frequencies",
    "LayerwiseOptimizer",
    "LookAhead",
    "RowWiseAdagrad",
    "ShardedEmbedding",
    "ShardedEmbeddingBag",
    "auto",
    "clip_grad_norm_",
    "frequencies",
    "save_whole",
    "shard",
]
