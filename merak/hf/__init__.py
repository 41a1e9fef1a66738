"""The Hugging Face side of the room `engine`: a `transformers.Trainer` whose model many ranks train by a plan.

    from merak.hf import Trainer
    trainer = Trainer(model=model, args=args, train_dataset=dataset, plan=merak.Plan(dp=2, pp=2, microbatches=4))

docs/trainer.md says what its arguments mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from merak._extras import require
from merak.hf.data_efficiency import BudgetArguments, CurriculumArguments, RandomLTDArguments

if TYPE_CHECKING:
    from merak.hf.trainer import Trainer

__all__ = ["BudgetArguments", "CurriculumArguments", "RandomLTDArguments", "Trainer"]


def __getattr__(name: str) -> Any:
    if name != "Trainer":
        raise AttributeError(f"module 'merak.hf' has no attribute {name!r}")
    for package in ("transformers", "accelerate"):
        require(package, extra="hf")
    from merak.hf.trainer import Trainer

    return Trainer
