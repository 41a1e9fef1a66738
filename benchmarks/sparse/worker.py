"""One rank of the benchmark; runs under torchrun, on the test bed.

    torchrun --nnodes ... -m benchmarks.sparse.worker SUITE_JSON

All ways live in the same processes and take turns, as in `benchmarks.collectives.worker`. Rank 0 prints one JSON line a
table and way.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch

import merak.sparse

from .bench import Bench, Groups, Suite, Way
from .ways import LOSSY, WAYS


def run_beside_gloo(ways: Mapping[str, Callable[[torch.Tensor, Groups], Way]], lossy: Collection[str] = ()) -> None:
    """Measure what the command line asks for, of these ways, which may use groups over merak and over Gloo."""
    torch.set_num_threads(1)
    bench = Bench(Suite.from_json(sys.argv[1]), ways, _plan, ("merak", "gloo"), lossy)
    bench.run()
    bench.close()


def _plan(gradient: torch.Tensor, groups: Groups) -> dict[str, Any]:
    plan = merak.sparse.explain(gradient, group=groups["merak"])
    return {
        "union_rows": plan.union_rows,
        "rank_rows": plan.rank_rows,
        "chosen": plan.method,
        "prices": plan.prices,
    }


if __name__ == "__main__":
    run_beside_gloo(WAYS, LOSSY)
