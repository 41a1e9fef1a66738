"""A plan of parallel training: how many ranks of each kind, how the model is cut, what each rank does when."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from merak.pipeline.schedule import KINDS, Schedule

Recompute = Literal["auto"] | float | Sequence[float]
DataParallel = Literal["all-reduce", "sparse", "zero1"]
Precision = Literal["fp32", "bf16", "fp16"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a model is trained by `world_size` ranks.

    Attributes:
        dp: replicas, each of which gets a part of the global batch.
        tp: ranks that share each layer. Only 1 for now.
        pp: ranks that the stages are divided among.
        microbatches: how many parts each replica's batch is cut into.
        schedule: a kind (see `merak.pipeline.KINDS`), or a path to a CSV of actions.
        recompute: how much of each stage's forward is run again before its backward: a ratio, a ratio for each stage,
            or "auto": as little as `memory` allows.
        keep: what of a forward stays though it is run again, so that it costs bytes and no time: names of operations
            ("aten.linear"), of nodes of the graph or of modules, with * for anything.
        cuts: names of modules or of operations; each begins a stage. By default the stages are balanced by cost.
        stages: how many stages in all; by default one a rank, two for "zbv" and "interleaved".
        data_parallel: how replicas agree: all-reduce of gradients; "sparse", the same, but of tables that only
            embeddings read the rows that a batch has touched; or ZeRO-1 (a replica updates its share of the parameters,
            and keeps the optimizer's state of that share only).
        precision: what is computed in. "fp32": the dtypes of the parameters; else autocast, and for "fp16" a scaled
            loss.
        memory: bytes that a rank may use, for "auto".
        seed: of random operations such as dropout.
    """

    dp: int = 1
    tp: int = 1
    pp: int = 1
    microbatches: int = 1
    schedule: str = "1f1b"
    recompute: Recompute = 0.0
    keep: tuple[str, ...] = ()
    cuts: tuple[str, ...] | None = None
    stages: int | None = None
    data_parallel: DataParallel = "all-reduce"
    precision: Precision = "fp32"
    memory: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("dp", "tp", "pp", "microbatches"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be 1 or more")
        if self.tp != 1:
            raise ValueError("tp must be 1: tensor parallelism is not there yet")
        if self.schedule not in KINDS and not str(self.schedule).endswith(".csv"):
            raise ValueError(
                f"schedule is {self.schedule!r}; it must be one of {', '.join(KINDS)}, or a path to a .csv"
            )
        if self.stages is not None and self.stages % self.pp:
            raise ValueError(f"stages is {self.stages}; it must be a multiple of pp, which is {self.pp}")
        _check_one_of("data_parallel", self.data_parallel, ("all-reduce", "sparse", "zero1"))
        _check_one_of("precision", self.precision, ("fp32", "bf16", "fp16"))
        _check_recompute(self.recompute, self.n_stages)
        object.__setattr__(self, "recompute", _hashable(self.recompute))
        object.__setattr__(self, "keep", _names("keep", self.keep))
        if self.cuts is not None:
            object.__setattr__(self, "cuts", _names("cuts", self.cuts))
            if len(self.cuts) != self.n_stages - 1:
                raise ValueError(f"cuts has {len(self.cuts)} names; {self.n_stages} stages have {self.n_stages - 1}")

    @property
    def world_size(self) -> int:
        """How many ranks it is for."""
        return self.dp * self.tp * self.pp

    @property
    def n_stages(self) -> int:
        """How many stages the model is cut into."""
        if self.stages is not None:
            return self.stages
        several = self.pp > 1 and self.schedule in ("zbv", "interleaved", "looped-bfs", "zero-bubble")
        return self.pp * (2 if several or self.schedule == "zbv" else 1)

    def recompute_of_stages(self) -> list[float]:
        """The ratio of each stage. "auto" is for whoever knows the model."""
        if self.recompute == "auto":
            raise ValueError("the ratio of 'auto' depends on the model")
        if isinstance(self.recompute, int | float):
            return [float(self.recompute)] * self.n_stages
        return [float(ratio) for ratio in self.recompute]

    def make_schedule(
        self, edges: Sequence[tuple[int, int, bool]], microbatches: int, recomputed: Sequence[bool]
    ) -> Schedule:
        """What each pipeline rank does.

        Args:
            edges: between which stages values travel, and whether their gradients come back.
            microbatches: of this step; `self.microbatches`, but for batches with fewer rows.
            recomputed: which stages recompute.
        """
        if self.schedule in KINDS:
            return Schedule.make(
                self.schedule,
                stages=self.n_stages,
                ranks=self.pp,
                microbatches=microbatches,
                recompute=recomputed,
                edges=edges,
            )
        schedule = Schedule.from_csv(self.schedule).first_microbatches(microbatches)
        if not schedule.communicates:
            schedule = schedule.with_communication(edges)
        return schedule.with_reduction()

    @property
    def splits_backward(self) -> bool:
        """Whether the schedule has backwards of inputs and of weights apart."""
        if self.schedule in KINDS:
            return self.schedule in ("zero-bubble", "zbv", "eager-delayed")
        schedule = Schedule.from_csv(self.schedule)
        return any(action.kind == "W" for rank in range(schedule.n_ranks) for action in schedule.actions(rank))

    def to_json(self) -> str:
        """The plan as JSON, which `from_json` reads."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> Plan:
        """The plan that `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        known = {field.name for field in dataclasses.fields(Plan)}
        if unknown := sorted(fields.keys() - known):
            raise ValueError(f"a plan has no {', '.join(unknown)}")
        return Plan(**fields)

    def save(self, path: str | Path) -> None:
        """Writes `to_json` to a file."""
        Path(path).write_text(self.to_json())

    @staticmethod
    def load(path: str | Path) -> Plan:
        """The plan in a file."""
        return Plan.from_json(Path(path).read_text())


def _check_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}; it must be {', '.join(map(repr, known[:-1]))} or {known[-1]!r}")


def _names(field: str, names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{field} is {names!r}; it must be a sequence of names")
    return tuple(names)


def _hashable(recompute: Recompute) -> Recompute:
    return recompute if isinstance(recompute, int | float | str) else tuple(recompute)


def _check_recompute(recompute: Recompute, stages: int) -> None:
    if recompute == "auto":
        return
    if isinstance(recompute, str):
        raise ValueError(f"recompute is {recompute!r}; it must be 'auto', a ratio, or a ratio for each stage")
    ratios = [recompute] if isinstance(recompute, int | float) else list(recompute)
    if not isinstance(recompute, int | float) and len(ratios) != stages:
        raise ValueError(f"recompute has {len(ratios)} ratios; there are {stages} stages")
    if bad := [ratio for ratio in ratios if not 0 <= ratio <= 1]:
        raise ValueError(f"recompute is {bad[0]}; a ratio lies between 0 and 1")
