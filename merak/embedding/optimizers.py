"""Optimizers of tables: they change the rows that have a gradient, and no others.

Those of torch.optim work, too; these are faster, there is a lazy AdamW among them, and they take tables of 16 bits.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch

from merak import _C

if TYPE_CHECKING:
    from merak.embedding.table_ahead import TableAhead


class RowOptimizer(torch.optim.Optimizer):
    """What the optimizers below have in common: parameters are tables, [rows, columns], contiguous, on CPU, of float32,
    float64, bfloat16 or float16, whose gradients are sparse COO tensors. State and arithmetic of 16-bit tables are
    float32."""

    KIND: str
    STATE: tuple[tuple[str, str], ...] = ()
    """Names of what is remembered of a table, with the option that it is filled with at first, or "" for zeros."""

    def __init__(self, params: Iterable[torch.Tensor], defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)
        self._ahead: dict[torch.Tensor, TableAhead] = {}

    @abc.abstractmethod
    def _rule(self, group: dict[str, Any]) -> tuple[float, float, float, float, float]:
        """rate, first, second, epsilon and weight_decay, as csrc/embedding/update_rows.h has them."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Changes the rows that have a gradient.

        Raises:
            ValueError: a parameter, or a gradient, is not as above.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for table in group["params"]:
                ahead = self._ahead.get(table)
                if ahead is not None and ahead.has_gradient():
                    ahead.step(self._begin(group, table))
                elif ahead is None and table.grad is not None:
                    self._update(group, table, table.grad)
        return loss

    def has(self, table: torch.Tensor) -> bool:
        """Whether it is one of the parameters."""
        return any(table is one for group in self.param_groups for one in group["params"])

    def follow(self, table: torch.Tensor, ahead: TableAhead | None) -> None:
        """Takes the table's gradients from a look-ahead from now on; or, with None, from the table."""
        if ahead is None:
            self._ahead.pop(table, None)
        else:
            self._ahead[table] = ahead

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave, in float32 also for tables of 16 bits, where torch.optim would round."""
        super().load_state_dict(state_dict)
        saved = state_dict["state"]
        tables = [table for group in self.param_groups for table in group["params"]]
        for index, table in enumerate(tables):
            for name, _ in self.STATE if index in saved else ():
                self.state[table][name] = saved[index][name].clone()

    def _update(self, group: dict[str, Any], table: torch.Tensor, gradient: torch.Tensor) -> None:
        if gradient.layout is not torch.sparse_coo:
            raise ValueError("the gradient of a table is dense; use an optimizer of torch.optim, or sparse=True.")
        coalesced = gradient.coalesce()
        self._begin(group, table)(coalesced.indices()[0], coalesced.values())

    def _begin(self, group: dict[str, Any], table: torch.Tensor) -> _C.TableUpdate:
        """What a step does to rows of the table."""
        state = self.state[table]
        if not state:
            wide = table.dtype if table.dtype in (torch.float32, torch.float64) else torch.float32
            state["step"] = 0
            for name, option in self.STATE:
                state[name] = torch.full_like(table, group[option] if option else 0.0, dtype=wide)
        state["step"] += 1
        remembered = [state[name] for name, _ in self.STATE]
        return _C.TableUpdate(self.KIND, self._rule(group), state["step"], table, remembered)


class SGD(RowOptimizer):
    """``torch.optim.SGD(lr)``; with momentum, which is remembered of each row, and forgotten only when the row has a
    gradient.

    Args:
        params, lr, momentum: as of `torch.optim.SGD`.
    """

    def __init__(self, params: Iterable[torch.Tensor], lr: float, momentum: float = 0.0) -> None:
        _check(lr=lr)
        _check_share(momentum=momentum)
        if momentum:
            self.KIND, self.STATE = "momentum", (("momentum_buffer", ""),)
        else:
            self.KIND = "sgd"
        super().__init__(params, {"lr": lr, "momentum": momentum})

    def _rule(self, group: dict[str, Any]) -> tuple[float, float, float, float, float]:
        return group["lr"], group["momentum"], 0.0, 0.0, 0.0


class Adagrad(RowOptimizer):
    """``torch.optim.Adagrad``. Args: as there."""

    KIND = "adagrad"
    STATE = (("sum", "initial_accumulator_value"),)

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        lr: float = 0.01,
        lr_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
    ) -> None:
        _check(lr=lr, lr_decay=lr_decay, initial_accumulator_value=initial_accumulator_value, eps=eps)
        defaults = {"lr": lr, "lr_decay": lr_decay, "initial_accumulator_value": initial_accumulator_value, "eps": eps}
        super().__init__(params, defaults)

    def _rule(self, group: dict[str, Any]) -> tuple[float, float, float, float, float]:
        return group["lr"], 0.0, group["lr_decay"], group["eps"], 0.0


class AdamW(RowOptimizer):
    """Lazy AdamW: of rows without a gradient nothing decays, neither moments nor weights. With ``weight_decay=0`` it is
    ``torch.optim.SparseAdam``.

    Args:
        params, lr, betas, eps, weight_decay: as of `torch.optim.AdamW`.
    """

    KIND = "adam"
    STATE = (("exp_avg", ""), ("exp_avg_sq", ""))

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        _check(lr=lr, eps=eps, weight_decay=weight_decay)
        _check_share(first_beta=betas[0], second_beta=betas[1])
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def _rule(self, group: dict[str, Any]) -> tuple[float, float, float, float, float]:
        first, second = group["betas"]
        return group["lr"], first, second, group["eps"], group["weight_decay"]


def _check(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name} is {value}; it must not be below 0.")


def _check_share(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} is {value}; it must be from 0 to below 1.")
