"""The codec of the lossy method."""

from __future__ import annotations

import contextlib
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
        _require_integer("budget_bytes", budget_bytes, 1)
        _require_integer("seed", seed, 0)
        self.budget_bytes, self.seed, self.feedback = budget_bytes, seed, feedback
        self.steps = 0
        """How many tensors it has reduced."""
        self._residual: torch.Tensor | None = None
        self._work: dist.Work | None = None

    @property
    def residual(self) -> torch.Tensor | None:
        """A copy of what this rank has not sent yet, laid out as the tensors are (a coalesced COO tensor); None before
        the first. Waits for an operation that goes on. When that fails, which its own wait() raises, what it was given
        is lost, and what was kept before is not."""
        kept = self._kept()
        return None if kept is None else kept.clone()

    def _kept(self) -> torch.Tensor | None:
        if self._work is not None:
            with contextlib.suppress(RuntimeError):  # as all errors of torch.distributed
                self._work.wait()
                self._residual = self._work.get_future().wait()[1]
            self._work = None
        return self._residual

    def start(self, backend: Backend, x: torch.Tensor, op: dist.ReduceOp, timeout: datetime.timedelta) -> dist.Work:
        """For `all_reduce`, which says what x may be. After the wait(), `get_future().wait()[0]` is the estimate."""
        residual = self._kept()
        if residual is not None and _kind(x) != _kind(residual):
            backend.refuse_sparse_all_reduce(
                f"a SketchCodec keeps what is left of one tensor: of {_text(residual)}; it was given {_text(x)}. Use a "
                "codec for each tensor."
            )
        pending = x if residual is None else _added(x, residual.to(x.device))
        seed = (self.seed + self.steps) % 2**64
        work = backend.sketch_all_reduce(pending, op, self.budget_bytes, seed, self.feedback, timeout)
        self.steps += 1
        if self.feedback:
            self._work = work
        return work

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Dense tensors alone, on every rank its own."""
        state = {"steps": torch.tensor(self.steps)}
        residual = self._kept()
        if residual is None:
            return state
        if residual.layout is torch.strided:
            return state | {_DENSE: residual.clone()}
        shape = torch.tensor(residual.shape)
        return state | {_SHAPE: shape, _INDICES: residual.indices().clone(), _VALUES: residual.values().clone()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Takes over what `state_dict` gave.

        Raises:
            ValueError: it is no such state; then the codec is as it was.
        """
        steps, residual = _parsed(state)
        self._work, self._residual, self.steps = None, residual, steps

    def __repr__(self) -> str:
        return (
            f"SketchCodec(budget_bytes={self.budget_bytes}, seed={self.seed}, feedback={self.feedback}), "
            f"{self.steps} steps"
        )


_COO_KEYS = {"steps", _SHAPE, _INDICES, _VALUES}


def _require_integer(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
        raise ValueError(f"{name} is {value!r}; it must be an integer from {least} to 2^63 - 1.")


def _parsed(state: dict[str, torch.Tensor]) -> tuple[int, torch.Tensor | None]:
    """Steps and residual."""

    def require(fine: bool, what: str) -> None:
        if not fine:
            raise ValueError(f"this is no state of a SketchCodec: {what}. It has {sorted(state)}.")

    require(all(isinstance(value, torch.Tensor) for value in state.values()), "it has to hold tensors")
    require(set(state) in ({"steps"}, {"steps", _DENSE}, _COO_KEYS), "these are not its keys")
    steps = state["steps"]
    require(steps.numel() == 1 and not steps.is_floating_point() and int(steps) >= 0, "steps has to be a number")
    if _DENSE in state:
        dense = state[_DENSE]
        require(dense.layout is torch.strided and dense.is_floating_point(), "the residual has to be a dense tensor")
        return int(steps), dense.clone()
    if _VALUES not in state:
        return int(steps), None
    shape, indices, values = state[_SHAPE], state[_INDICES], state[_VALUES]
    require(
        shape.dtype == indices.dtype == torch.int64 and values.is_floating_point(), "shape or indices are no integers"
    )
    try:
        residual = torch.sparse_coo_tensor(
            indices.clone(), values.clone(), torch.Size(shape.tolist()), check_invariants=True, is_coalesced=True
        )
    except RuntimeError as error:
        raise ValueError(f"this is no state of a SketchCodec: {error}") from error
    return int(steps), residual


def _added(x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    if x.layout is torch.strided:
        return x.detach() + residual
    indices = torch.cat([x._indices(), residual._indices()], dim=1)
    values = torch.cat([x._values().detach(), residual._values()])
    return torch.sparse_coo_tensor(indices, values, x.shape, check_invariants=False)


def _kind(x: torch.Tensor) -> tuple[Any, ...]:
    sparse_dim = x.sparse_dim() if x.layout is torch.sparse_coo else 0
    return x.shape, x.dtype, x.layout, sparse_dim


def _text(x: torch.Tensor) -> str:
    return f"a {x.layout} tensor of shape {tuple(x.shape)} and dtype {x.dtype}"
