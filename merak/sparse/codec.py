"""The codec of the lossy method."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from merak._C import Backend

_SHAPE, _INDICES, _VALUES, _DENSE = "residual.shape", "residual.indices", "residual.values", "residual"


class SketchCodec:
    """What ``method="sketch"`` needs to know, and what it keeps: of one tensor that is reduced again and again, such as
    the gradient of one table. Made and used alike on all ranks.

    A sketch has ``budget_bytes`` of cells, each as wide as a row; an all-reduce sends 2 (n - 1) / n times that. The
    ranks tell each other how heavy their rows are (the sum of their squares), and then

    * with feedback the heaviest rows get a cell each, exactly; of the others every rank keeps its part (`residual`),
      and adds it to the next tensor. Nothing is lost, only late: it converges where the exact sum does, if the learning
      rate is small enough.
    * without feedback the heaviest rows get a cell each, and the others share what is left, with random signs. The
      result is right on the average, and noisy: see docs/sparse.md for how much.

    Args:
        budget_bytes: of the cells; at least a row.
        seed: of hashes and signs, which are others at each step.
        feedback: see above.
    """

    def __init__(self, budget_bytes: int, seed: int = 0, feedback: bool = True) -> None:
        if budget_bytes < 1:
            raise ValueError(f"budget_bytes is {budget_bytes}; it must hold a row at least.")
        self.budget_bytes, self.seed, self.feedback = budget_bytes, seed, feedback
        self.steps = 0
        """How many tensors it has reduced."""
        self._residual: torch.Tensor | None = None
        self._work: dist.Work | None = None

    @property
    def residual(self) -> torch.Tensor | None:
        """What this rank has not sent yet, laid out as the tensors are (a coalesced COO tensor); None before the first.
        Waits for an operation that goes on."""
        work, self._work = self._work, None
        if work is not None:
            work.wait()
            self._residual = work.get_future().wait()[1]
        return self._residual

    def start(self, backend: Backend, x: torch.Tensor, op: dist.ReduceOp, timeout: datetime.timedelta) -> dist.Work:
        """For `all_reduce`, which says what x may be. After the wait(), `result()[0]` is the estimate."""
        pending = x if self.residual is None else _added(x, self.residual)
        seed = (self.seed + self.steps) % 2**64
        work = backend.sketch_all_reduce(pending, op, self.budget_bytes, seed, self.feedback, timeout)
        self.steps += 1
        if self.feedback:
            self._work = work
        return work

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Dense tensors alone, on every rank its own."""
        state = {"steps": torch.tensor(self.steps)}
        residual = self.residual
        if residual is None:
            return state
        if residual.layout is torch.strided:
            return state | {_DENSE: residual.clone()}
        shape = torch.tensor(residual.shape)
        return state | {_SHAPE: shape, _INDICES: residual.indices().clone(), _VALUES: residual.values().clone()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Takes over what `state_dict` gave."""
        if "steps" not in state:
            raise ValueError(f"this is no state of a SketchCodec: it has {sorted(state)}, and no 'steps'.")
        self._work, self._residual = None, None
        self.steps = int(state["steps"])
        if _DENSE in state:
            self._residual = state[_DENSE].clone()
        elif _VALUES in state:
            shape = torch.Size(state[_SHAPE].tolist())
            indices, values = state[_INDICES].clone(), state[_VALUES].clone()
            self._residual = torch.sparse_coo_tensor(indices, values, shape, check_invariants=True, is_coalesced=True)


def _added(x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    if _kind(x) != _kind(residual):
        raise ValueError(
            f"a SketchCodec keeps what is left of one tensor: of {_text(residual)}; it was given {_text(x)}. Use a "
            "codec for each tensor."
        )
    if x.layout is torch.strided:
        return x.detach() + residual
    indices = torch.cat([x._indices(), residual._indices()], dim=1)
    values = torch.cat([x._values().detach(), residual._values()])
    return torch.sparse_coo_tensor(indices, values, x.shape, check_invariants=False)


def _kind(x: torch.Tensor) -> tuple[Any, ...]:
    sparse_dim = x.sparse_dim() if x.layout is torch.sparse_coo else 0
    return x.shape, x.dtype, x.layout, sparse_dim, x.device.type


def _text(x: torch.Tensor) -> str:
    return f"a {x.layout} tensor of shape {tuple(x.shape)} and dtype {x.dtype} on {x.device.type}"
