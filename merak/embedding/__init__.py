"""Embedding tables whose columns are split over the ranks, inside data parallelism.

emb = merak.embedding.ShardedEmbedding(50_000, 512)
merak.embedding.shard(model)
"""

from merak.embedding.bag import ShardedEmbeddingBag
from merak.embedding.look_ahead import LookAhead
from merak.embedding.module import ShardedEmbedding
from merak.embedding.optimizers import SGD, Adagrad, AdamW
from merak.embedding.replacing import shard

__all__ = ["SGD", "Adagrad", "AdamW", "LookAhead", "ShardedEmbedding", "ShardedEmbeddingBag", "shard"]
