"""Optimizers of tables: they change the rows that have a gradient, and no others.

Those of torch.optim work, too; these are faster, there is a lazy AdamW among them, and they take tables of 16 bits.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from merak import _C
from merak.embedding.module import table_of
from merak.embedding.states import cut_to_parts, made_whole, saved_of

if TYPE_CHECKING:
    from merak.embedding.table_ahead import TableAhead


class RowOptimizer(torch.optim.Optimizer):
    """What the optimizers below have in common: parameters are tables, [rows, columns], contiguous, on CPU, of float32,
    float64, bfloat16 or float16, whose gradients are sparse COO tensors. State and arithmetic of 16-bit tables are
    float32. The state is there from the beginning, and whole in `state_dict()`, as states.py says."""

    KIND: str
    STATE: tuple[tuple[str, str], ...] = ()
    """Names of what is remembered of a table, with the option that it is filled with at first, or "" for zeros."""
    A_NUMBER_A_ROW = False
    """Whether that is one number for each row, not one for each element."""

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
        plain = []
        for group in self.param_groups:
            for table in group["params"]:
                ahead = _split_of(table)
                if ahead is not None and ahead.has_gradient():
                    ahead.step(self._begin(group, table))
                elif ahead is None and table.grad is not None:
                    plain.append((group, table, _coalesced(table.grad)))
        means = self._mean_squares([(table, gradient) for _, table, gradient in plain])
        for (group, table, gradient), mean_squares in zip(plain, means, strict=True):
            self._begin(group, table)(gradient.indices()[0], gradient.values(), mean_squares)
            torch.autograd.graph.increment_version(table)  # which the update in C++ does not
        return loss

    def splits(self, table: torch.Tensor) -> bool:
        """Whether a look-ahead may give it the gradient of that table in parts."""
        known = any(table is one for group in self.param_groups for one in group["params"])
        return known and not self.A_NUMBER_A_ROW

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As of `torch.optim.Optimizer`."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for table in group["params"]:
            wide = table.dtype if table.dtype in (torch.float32, torch.float64) else torch.float32
            shape = table.shape[:1] if self.A_NUMBER_A_ROW else table.shape
            self.state[table]["step"] = 0
            for name, option in self.STATE:
                first = group[option] if option else 0.0
                self.state[table][name] = torch.full(shape, first, dtype=wide, device=table.device)

    def state_dict(self) -> dict[str, Any]:
        """As of `torch.optim.Optimizer`; of `ShardedEmbedding` tables with DTensors of the table's shape."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if (table := table_of(parameter)) is not None:
                    table.settle()
        return made_whole(self, super().state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave, of any number of ranks, or of a table that is whole; in float32 also for
        tables of 16 bits, where torch.optim would round."""
        mine = cut_to_parts(self, state_dict)
        super().load_state_dict(mine)
        for table, _, saved in saved_of(self, mine):
            for name, _ in self.STATE:
                self.state[table][name] = saved[name].clone(memory_format=torch.contiguous_format)

    def _mean_squares(self, gradients: list[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor | None]:
        """What the update needs beside the gradients, for each table and its gradient."""
        return [None for _ in gradients]

    def _begin(self, group: dict[str, Any], table: torch.Tensor) -> _C.TableUpdate:
        """What a step does to rows of the table."""
        state = self.state[table]
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


class RowWiseAdagrad(RowOptimizer):
    """Adagrad that remembers one number a row, not one an element: the sum over the steps of the mean of the squares of
    the row's gradient. That is over all columns: of a `ShardedEmbedding` split by columns the ranks add up their sums,
    one number a row that has a gradient, so that all ranks call `step` together.

    Args:
        params, lr, initial_accumulator_value, eps: as of `torch.optim.Adagrad`.
    """

    KIND = "row_wise_adagrad"
    STATE = (("sum", "initial_accumulator_value"),)
    A_NUMBER_A_ROW = True

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        lr: float = 0.01,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
    ) -> None:
        _check(lr=lr, initial_accumulator_value=initial_accumulator_value, eps=eps)
        super().__init__(params, {"lr": lr, "initial_accumulator_value": initial_accumulator_value, "eps": eps})

    def _rule(self, group: dict[str, Any]) -> tuple[float, float, float, float, float]:
        return group["lr"], 0.0, 0.0, group["eps"], 0.0

    def _mean_squares(self, gradients: list[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor | None]:
        sums = [_C.square_sums(gradient.values()) for _, gradient in gradients]
        columns, works = [], []
        for (parameter, _), ours in zip(gradients, sums, strict=True):
            table = table_of(parameter)
            columns.append(parameter.size(1) if table is None else table.embedding_dim)
            if table is not None and not table.by_rows:
                works.append(dist.all_reduce(ours, group=table.mesh.get_group(), async_op=True))
        for work in works:
            work.wait()
        return [ours / count for ours, count in zip(sums, columns, strict=True)]


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


def _split_of(parameter: torch.Tensor) -> TableAhead | None:
    """The look-ahead that has the parameter's gradient in parts."""
    table = table_of(parameter)
    return None if table is None or table.ahead is None or not table.ahead.splits else table.ahead


def _coalesced(gradient: torch.Tensor) -> torch.Tensor:
    if gradient.layout is not torch.sparse_coo:
        raise ValueError("the gradient of a table is dense; use an optimizer of torch.optim, or sparse=True.")
    return gradient.coalesce()


def _check(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name} is {value}; it must not be below 0.")


def _check_share(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} is {value}; it must be from 0 to below 1.")
