"""A learning rate that follows tokens instead of steps.

With tokens dropped, a step is worth fewer tokens at first than later. Warm-up and decay therefore run on the effective
*layer-tokens* that were consumed (`Counters.layer_tokens`), as the published recipes do (Z. Yao et al., "Random-LTD",
2022, appendix): with c of them consumed, w those of warm-up and d those of decay,

    linear warm-up      c / w                                      c < w
    cosine decay        m + (1 - m) (1 + cos(pi (c - w) / (d - w))) / 2      m: the least ratio

of each parameter group's learning rate. Warm-up may go by steps instead: w is then what was consumed at its end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from merak.data.counters import Counters

STYLES = ("cosine", "linear", "constant")


class LayerTokenLR:
    """Sets an optimizer's learning rates; `step()` after each of its steps, as torch's schedulers do.

    Args:
        optimizer: its groups' learning rates are the highest ones.
        counters: what has been consumed.
        decay_tokens: layer-tokens at which the least ratio is reached.
        warmup_tokens, warmup_steps: one of both, or none.
        least_ratio: of the learning rate, in the end.
        style: of the decay: "cosine", "linear" or "constant".

    Raises:
        ValueError: these do not fit together.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        counters: Counters,
        *,
        decay_tokens: float,
        warmup_tokens: float = 0.0,
        warmup_steps: int = 0,
        least_ratio: float = 0.0,
        style: str = "cosine",
    ) -> None:
        if style not in STYLES:
            raise ValueError(f"the style of decay is {style!r}: use one of {', '.join(STYLES)}")
        if warmup_tokens and warmup_steps:
            raise ValueError("warm-up goes by warmup_tokens or by warmup_steps, not by both")
        if warmup_tokens < 0 or warmup_steps < 0 or decay_tokens <= warmup_tokens:
            raise ValueError(
                f"warm-up of {warmup_tokens:g} tokens or {warmup_steps} steps, decay until {decay_tokens:g} tokens: "
                "decay must end after warm-up"
            )
        if not 0 <= least_ratio <= 1:
            raise ValueError(f"least_ratio is {least_ratio}; it must be between 0 and 1")
        self.optimizer, self.counters = optimizer, counters
        self.decay_tokens, self.warmup_tokens, self.warmup_steps = decay_tokens, warmup_tokens, warmup_steps
        self.least_ratio, self.style = least_ratio, style
        self.steps = 0
        self._set_highest([float(group["lr"]) for group in optimizer.param_groups])

    def ratio(self) -> float:
        """Of the highest learning rate, now."""
        consumed = self.counters.layer_tokens
        if self.steps < self.warmup_steps:
            return (self.steps + 1) / (self.warmup_steps + 1)
        if consumed < self.warmup_tokens:
            return consumed / self.warmup_tokens
        if self.style == "constant":
            return 1.0
        way = (consumed - self.warmup_tokens) / max(self.decay_tokens - self.warmup_tokens, 1.0)
        way = min(max(way, 0.0), 1.0)
        left = (1 + math.cos(math.pi * way)) / 2 if self.style == "cosine" else 1 - way
        return self.least_ratio + (1 - self.least_ratio) * left

    def step(self) -> None:
        """After a step of the optimizer, and `counters.add`."""
        self.steps += 1
        if self.steps == self.warmup_steps:
            self.warmup_tokens = self.counters.layer_tokens
        self._apply()

    def get_last_lr(self) -> list[float]:
        """Of each group."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs, beside the counters' state."""
        return {"steps": self.steps, "warmup_tokens": self.warmup_tokens, "highest": self._highest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """After the counters' own."""
        self.steps, self.warmup_tokens = state["steps"], state["warmup_tokens"]
        self._set_highest(state["highest"])

    def _set_highest(self, rates: list[float]) -> None:
        if len(rates) != len(self.optimizer.param_groups):
            raise ValueError(f"{len(rates)} learning rates for {len(self.optimizer.param_groups)} groups")
        self._highest = list(rates)
        self._apply()

    def _apply(self) -> None:
        ratio = self.ratio()
        for group, highest in zip(self.optimizer.param_groups, self._highest, strict=True):
            group["lr"] = highest * ratio
