"""What a rank's memory holds of a table that is split over the ranks, and of steps on it.

    python -m benchmarks.embedding.memory [--ranks 4] [--rows 200000] [--columns 512] [--tokens 2048]

Runs the ranks on this machine. Prints, for each, the memory that the table took when it was made, and the most that the
process had above that in ten steps of SGD with a look-ahead; beside the whole table, and the rows in flight by formula:
those of this rank's tokens, of three batches, their gradient, and what the ranks' reads take of its columns.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist

import merak.embedding
from benchmarks.sparse.tables import Table

STEPS = 10
MIB = 2**20


def status(field: str) -> int:
    """Bytes, of this process."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def train(table: merak.embedding.ShardedEmbedding, batches: list[torch.Tensor]) -> None:
    optimizer = merak.embedding.SGD(table.parameters(), lr=0.1)
    for ids in merak.embedding.LookAhead(batches, lambda ids: {table: ids}, optimizer):
        table(ids).sum().backward()
        optimizer.step()


def measure(rows: int, columns: int, tokens: int) -> None:
    """On one rank."""
    torch.set_num_threads(1)
    dist.init_process_group("merak")
    rank, size = dist.get_rank(), dist.get_world_size()
    batches = [Table(rows, columns, tokens).gradient(size * step + rank)._indices()[0] for step in range(STEPS)]
    train(merak.embedding.ShardedEmbedding(64, 8), [torch.arange(8)] * 4)  # loads code, opens connections
    before = status("VmRSS")
    table = merak.embedding.ShardedEmbedding(rows, columns)
    held = status("VmRSS") - before
    forget_peak()
    train(table, batches)
    peak = status("VmHWM") - before - held
    whole = rows * columns * 4
    in_flight = 4 * tokens * columns * 4 + 2 * size * tokens * (columns // size) * 4
    line = f"rank {rank}: the table {held / MIB:.1f} MiB of {whole / MIB:.1f}, {held / whole:.3f} of it; steps at most "
    sys.stdout.write(f"{line}{peak / MIB:.1f} MiB more, rows in flight at most {in_flight / MIB:.1f}\n")
    dist.destroy_process_group()


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--columns", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=2048, help="of a rank and step")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        measure(options.rows, options.columns, options.tokens)
        return 0
    own = [f"--{name}={getattr(options, name)}" for name in ("rows", "columns", "tokens")]
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={options.ranks}"]
    return subprocess.run([sys.executable, *launch, "-m", "benchmarks.embedding.memory", "--rank", *own]).returncode


if __name__ == "__main__":
    sys.exit(main())
