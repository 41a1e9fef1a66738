"""One rank of TorchRec's part of the benchmark; runs under the torchrun of the environment that has TorchRec.

    torchrun --nnodes ... -m benchmarks.embedding.torchrec_worker SUITE_JSON

An EmbeddingCollection with one table, sharded by columns or by rows over the ranks, over Gloo. A call looks this rank's
tokens up and takes their gradient back to the shards. There TorchRec updates rows in the backward pass and keeps no
gradient: it does so by SGD here, which is work that the other ways do not have. The rate is 1 and gradients are summed,
not averaged, so that the sum is what a call has taken off the table.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torchrec
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torchrec.distributed.comm_ops import set_gradient_division
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.sharding_plan import column_wise, construct_module_sharding_plan, row_wise
from torchrec.distributed.types import ParameterSharding, ShardingEnv

from benchmarks.sparse.bench import Bench, Groups, Suite

from .torchrec_environment import TORCHREC_WAYS

Split = Callable[..., ParameterSharding]


class TorchRec:
    """A step of a table that TorchRec has split."""

    def __init__(self, split: Callable[[int], Split], gradient: torch.Tensor, groups: Groups) -> None:
        rows, columns = gradient.shape
        self.ids, self.gradient = gradient._indices()[0].contiguous(), gradient._values()
        self.lengths = torch.tensor([len(self.ids)])
        self.module = _sharded(rows, columns, split(dist.get_world_size()), groups["gloo"])
        self.start = torch.from_numpy(np.random.default_rng(0).integers(-8, 9, (rows, columns)).astype(np.float32))
        for shard, place in self.shards():
            shard.copy_(self.start[place])

    def shards(self) -> Iterator[tuple[torch.Tensor, tuple[slice, slice]]]:
        """This rank's, and where in the table each is."""
        for shard in self.module.state_dict()["embeddings.table.weight"].local_shards():
            starts, sizes = shard.metadata.shard_offsets, shard.metadata.shard_sizes
            rows, columns = (slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
            yield shard.tensor.detach(), (rows, columns)

    def reset(self) -> None:
        self.looked_up: torch.Tensor | None = None

    def call(self) -> None:
        tokens = torchrec.KeyedJaggedTensor(keys=["token"], values=self.ids, lengths=self.lengths)
        looked_up: torch.Tensor = self.module(tokens)["token"].values()
        looked_up.backward(self.gradient)
        self.looked_up = looked_up.detach()

    def result(self) -> torch.Tensor:
        """What the first call has taken off the table.

        Raises:
            RuntimeError: it looked other rows up than the tokens'.
        """
        assert self.looked_up is not None
        if not torch.equal(self.looked_up, self.start[self.ids]):
            raise RuntimeError("TorchRec looked up other rows than those of the tokens")
        now = torch.zeros_like(self.start)
        for shard, place in self.shards():
            now[place] = shard
        dist.all_reduce(now)
        return self.start - now


def _sharded(rows: int, columns: int, split: Split, group: dist.ProcessGroup) -> torch.nn.Module:
    table = torchrec.EmbeddingConfig(name="table", num_embeddings=rows, embedding_dim=columns, feature_names=["token"])
    module = torchrec.EmbeddingCollection(tables=[table], device=torch.device("meta"))
    sharder = EmbeddingCollectionSharder(fused_params={"optimizer": EmbOptimType.EXACT_SGD, "learning_rate": 1.0})
    plan = construct_module_sharding_plan(module, {"table": split}, sharder, local_size=1, device_type="cpu")
    sharded: torch.nn.Module = sharder.shard(
        module, plan, ShardingEnv.from_process_group(group), device=torch.device("cpu")
    )
    return sharded


def _describe(gradient: torch.Tensor, groups: Groups) -> dict[str, Any]:
    touched = torch.zeros(gradient.size(0), dtype=torch.uint8)
    touched[gradient._indices()[0]] = 1
    of_ranks = [torch.empty_like(touched) for _ in range(dist.get_world_size())]
    dist.all_gather(of_ranks, touched, group=groups["gloo"])
    return {
        "union_rows": int(torch.stack(of_ranks).any(0).sum()),
        "rank_rows": [int(one.sum()) for one in of_ranks],
        "versions": {"torch": torch.__version__, "torchrec": torchrec.__version__},
    }


def main() -> None:
    torch.set_num_threads(1)
    set_gradient_division(False)
    splits: tuple[Callable[[int], Split], ...] = (
        lambda size: column_wise(ranks=list(range(size)), compute_kernel="fused"),
        lambda size: row_wise(compute_kernel="fused"),
    )
    ways = {name: partial(TorchRec, split) for name, split in zip(TORCHREC_WAYS, splits, strict=True)}
    bench = Bench(Suite.from_json(sys.argv[1]), ways, _describe, ("gloo",))
    bench.run()
    bench.close()


if __name__ == "__main__":
    main()
