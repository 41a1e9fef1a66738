"""One rank of the benchmark; runs under torchrun, on the test bed.

    torchrun --nnodes ... -m benchmarks.embedding.worker SUITE_JSON

All ways live in the same processes and take turns. Rank 0 prints one JSON line a table and way.
"""

from __future__ import annotations

import sys

import torch

from benchmarks.sparse.worker import Bench, Suite

from .ways import WAYS


def main() -> None:
    torch.set_num_threads(1)
    bench = Bench(Suite.from_json(sys.argv[1]), WAYS)
    bench.run()
    bench.close()


if __name__ == "__main__":
    main()
