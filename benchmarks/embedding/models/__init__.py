"""Models whose training is measured: plain torch, each with embedding tables as the published one has them.

Widths and vocabularies are scaled down until a step of one rank takes some tens of milliseconds on one core. The share
of the parameters that are embeddings is the published model's, since that share decides what the tables' gradients
matter beside the dense ones.
"""

from collections.abc import Callable

from . import bert, gnmt, lstm, transformer
from .task import Batch, Task

MODELS: dict[str, Callable[[int], Task]] = {
    "lstm": lstm.task,
    "gnmt": gnmt.task,
    "transformer": transformer.task,
    "bert": bert.task,
}
"""By name; the argument divides the rows of tables, 1 for the sizes of the docstrings."""

__all__ = ["MODELS", "Batch", "Task"]
