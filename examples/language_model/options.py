"""The options of the example. A checkpoint records those that define the run, and resuming with another value of one of
them is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.options import UsageError, check_least, choice, habit, option


@dataclass(frozen=True)
class Options:
    """Every option, with its default. Sizes count tokens, sequences or steps, as the help says."""

    vocabulary: int = option(1024, "tokens in the byte-level BPE vocabulary, at least 257")
    layers: int = option(4, "transformer blocks")
    width: int = option(128, "numbers in a hidden state; a multiple of --heads")
    heads: int = option(4, "attention heads")
    dropout: float = option(0.0, "probability with which a number is dropped in training")
    block: int = option(128, "tokens in a sequence")
    holdout: int = option(8, "every how many-th topic is kept for validation")
    global_batch: int = option(32, "sequences in a step over all ranks; a multiple of the number of replicas")
    microbatches: int = option(8, "parts that the global batch is cut into over all replicas; dropout depends on it")
    steps: int = option(300, "optimizer steps")
    learning_rate: float = option(3e-3, "the largest learning rate, reached after the warm-up")
    warmup: int = option(30, "steps in which the learning rate rises; then it falls along a cosine")
    weight_decay: float = option(0.1, "AdamW's weight decay of matrices (vectors have none)")
    clip: float = option(1.0, "largest norm of the gradient")
    seed: int = option(0, "seed of weights, data order and dropout")

    engine: str = choice("pipeline", "how a step is computed", ("pipeline", "ddp"))
    plan: str = habit("given", "given: by --pp, --schedule and --recompute; auto: the fastest, found on these ranks")
    pp: int = habit(0, "ranks that the model's stages are divided among; 0: two where the number of ranks is even")
    schedule: str = habit("shifted", "of the pipeline: gpipe, 1f1b, eager, shifted, zero-bubble, ...")
    recompute: float = habit(1.0, "share of a stage's forward that is run again before its backward, to save memory")
    backend: str = habit("merak", "torch.distributed backend: merak, or gloo for comparison")
    timeout: int = habit(300, "seconds after which a collective that is not finished raises an error")
    threads: int = habit(1, "torch threads in a rank")
    output: Path = habit(Path("runs/language_model"), "folder of the checkpoints, losses.json and loss.png")
    evaluate_every: int = habit(50, "steps between validations; there is always one at the start and one at the end")
    checkpoint_every: int = habit(100, "steps between checkpoints; there is always one at the end")
    keep: int = habit(2, "checkpoints kept; older ones are removed")
    log_every: int = habit(10, "steps between lines where the output is not a terminal")
    stop_at: int = habit(0, "leave after this step with a checkpoint, as when a time slice ends; 0 runs to the end")
    resume: bool = habit(False, "go on from the newest checkpoint in the output folder, if there is one")

    def __post_init__(self) -> None:
        check_least(self, _SMALLEST)
        if not 0 <= self.dropout < 1:
            raise UsageError(f"--dropout is {self.dropout}; it must be at least 0 and below 1.")
        if self.learning_rate <= 0 or self.clip <= 0 or self.weight_decay < 0:
            raise UsageError("--learning-rate and --clip must be above 0, and --weight-decay at least 0.")
        if self.plan not in ("given", "auto"):
            raise UsageError(f"--plan is {self.plan}; it must be given or auto.")
        if self.plan == "auto" and self.dropout:
            raise UsageError("--plan auto chooses the micro-batches, on which dropout depends: give --dropout 0.")
        if self.width % self.heads:
            raise UsageError(f"--width {self.width} is not a multiple of --heads {self.heads}.")


_SMALLEST = {
    "vocabulary": 257,  # a token a byte, and the end of a text
    "microbatches": 1, "pp": 0,
    "layers": 1, "width": 1, "heads": 1, "block": 2, "holdout": 2, "global_batch": 1, "steps": 1, "warmup": 0,
    "evaluate_every": 1, "seed": 0, "timeout": 1, "threads": 1, "checkpoint_every": 1, "keep": 1, "log_every": 1,
    "stop_at": 0,
}  # fmt: skip
