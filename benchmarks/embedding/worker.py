"""One rank of the benchmark; runs under torchrun, on the test bed.

    torchrun --nnodes ... -m benchmarks.embedding.worker SUITE_JSON

All ways live in the same processes and take turns. Rank 0 prints one JSON line a table and way.
"""

from __future__ import annotations

from benchmarks.sparse.worker import run_beside_gloo

from .ways import WAYS

if __name__ == "__main__":
    run_beside_gloo(WAYS)
