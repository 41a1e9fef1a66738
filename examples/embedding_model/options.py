"""The options of the example."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.options import UsageError, check_least, habit, option

from .optimizers import TABLE_RATES
from .reductions import REDUCTIONS

EMBEDDINGS = ("replicated", "alltoall")


@dataclass(frozen=True)
class Options:
    """Every option, with its default. Sizes count words, streams or steps, as the help says."""

    reduce: str = option("exact", "how gradients are averaged", choices=tuple(REDUCTIONS))
    embedding: str = option("replicated", "tables: each rank has them, or some columns", choices=EMBEDDINGS)
    compression: float = option(4.0, "of sketch: how many times fewer bytes than exact it sends")
    vocabulary: int = option(30_000, "rows of the tables at most: words seen twice, and <unk>")
    width: int = option(512, "columns of the tables")
    hidden: int = option(128, "numbers in the LSTM's state")
    negatives: int = option(1024, "words that a target is compared with in a step")
    streams: int = option(32, "texts read side by side, over all ranks; a multiple of the number of ranks")
    block: int = option(64, "words that a step reads of each stream")
    holdout: int = option(16, "every how many-th text is kept for validation")
    steps: int = option(500, "optimizer steps")
    table_optimizer: str = option("adagrad", "optimizer of the tables", choices=tuple(TABLE_RATES))
    table_learning_rate: float = option(0.0, "the tables' first learning rate; 0 is one that suits the optimizer")
    learning_rate: float = option(2e-3, "Adam's first learning rate, of LSTM and projection")
    clip: float = option(1.0, "largest norm of the gradient of LSTM and projection")
    seed: int = option(0, "seed of weights, order of the texts and negatives")

    timeout: int = habit(300, "seconds after which a collective that is not finished raises an error")
    threads: int = habit(1, "torch threads in a rank")
    output: Path = habit(Path("runs/embedding_model"), "folder of losses.json and loss.png")
    validation_words: int = habit(8192, "words that are validated on, rounded up to whole blocks")
    evaluate_every: int = habit(100, "steps between validations; there is always one at the start and one at the end")
    log_every: int = habit(10, "steps between lines where the output is not a terminal")

    def __post_init__(self) -> None:
        check_least(self, _SMALLEST)
        if self.compression <= 0:
            raise UsageError("--compression must be above 0.")
        if self.learning_rate <= 0 or self.clip <= 0 or self.table_learning_rate < 0:
            raise UsageError("--learning-rate and --clip must be above 0, and --table-learning-rate at least 0.")
        if self.embedding == "alltoall" and REDUCTIONS[self.reduce].backend != "merak":
            raise UsageError(f"--embedding alltoall needs merak; choose another --reduce than {self.reduce}.")
        if not REDUCTIONS[self.reduce].sparse and self.table_optimizer == "sparse-adam":
            raise UsageError(
                f"--reduce {self.reduce} has dense gradients, which sparse-adam does not take (and Adam moves rows "
                "without a gradient, too); choose --table-optimizer adagrad or sgd."
            )


_SMALLEST = {
    "vocabulary": 2, "width": 1, "hidden": 1, "negatives": 1, "streams": 1, "block": 1, "holdout": 2, "steps": 1,
    "seed": 0, "timeout": 1, "threads": 1, "validation_words": 1, "evaluate_every": 1, "log_every": 1,
}  # fmt: skip
