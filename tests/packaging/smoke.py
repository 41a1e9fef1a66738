"""What must work wherever merak was installed, on two ranks:

    torchrun --standalone --nproc-per-node 2 tests/packaging/smoke.py

It imports nothing of merak: torch finds the backend by its name. Raises, and so exits with a status other than 0, on
the first wrong value.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel


def check(name: str, actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, msg=lambda text: f"{name}: {text}")


def collectives(rank: int, size: int) -> None:
    values = torch.arange(1000, dtype=torch.float32)
    total = values * (rank + 1)
    dist.all_reduce(total)
    check("all_reduce", total, values * sum(range(1, size + 1)))

    message = values if rank == 0 else torch.empty_like(values)
    dist.broadcast(message, src=0)
    check("broadcast", message, values)

    gathered = [torch.empty(3, dtype=torch.int64) for _ in range(size)]
    dist.all_gather(gathered, torch.full((3,), rank))
    for peer, part in enumerate(gathered):
        check("all_gather", part, torch.full((3,), peer))

    part = torch.empty(2)
    dist.reduce_scatter_tensor(part, torch.arange(2.0 * size))
    check("reduce_scatter_tensor", part, size * torch.arange(2.0 * rank, 2.0 * rank + 2))

    swapped = torch.empty(size, dtype=torch.int64)
    dist.all_to_all_single(swapped, torch.arange(size) + 10 * rank)
    check("all_to_all_single", swapped, 10 * torch.arange(size) + rank)


def point_to_point(rank: int, size: int) -> None:
    received = torch.empty(5)
    sending = dist.isend(torch.full((5,), float(rank)), (rank + 1) % size)
    dist.recv(received, (rank - 1) % size)
    assert sending is not None
    sending.wait()
    check("isend, recv", received, torch.full((5,), float((rank - 1) % size)))


def data_parallel(rank: int, size: int) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1, bias=False)
    batch = torch.arange(4.0 * size).reshape(size, 4)
    replica = DistributedDataParallel(model)
    replica(batch[rank : rank + 1]).sum().backward()
    assert model.weight.grad is not None
    check("DistributedDataParallel", model.weight.grad, batch.mean(0, keepdim=True))


def main() -> None:
    dist.init_process_group("merak")
    rank, size = dist.get_rank(), dist.get_world_size()
    collectives(rank, size)
    point_to_point(rank, size)
    data_parallel(rank, size)
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        print(f"smoke test passed: {size} ranks, torch {torch.__version__}")


if __name__ == "__main__":
    main()
