"""A plan of parallel training: how many ranks of each kind, how the model is cut, what each rank does when."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from merak.pipeline.schedule import KINDS, Schedule

Recompute = Literal["auto"] | float | Sequence[float]
Widths = int | tuple[int, ...]
DataParallel = Literal["all-reduce", "sparse", "zero1"]
Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
_SEEDS = -(2**63), 2**64 - 1


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a model is trained by `world_size` ranks.

    Attributes:
        dp: replicas, each of which gets a part of the global batch.
        tp: ranks that share each layer, as in Megatron-LM; or how many of each pipeline rank's stages, as in (4, 2, 1).
        pp: ranks that the stages are divided among.
        microbatches: how many parts each replica's batch is cut into.
        schedule: a kind (see `merak.pipeline.KINDS`), or a path to a CSV of actions.
        recompute: how much of each stage's forward is run again before its backward: a ratio, a ratio for each stage,
            or "auto": as little as `memory` allows.
        keep: what of a forward stays though it is run again, so that it costs bytes and no time: names of operations
            ("aten.linear"), of nodes of the graph or of modules, with * for anything.
        cuts: names of modules or of operations; each begins a stage. By default the stages are balanced by cost.
        stages: how many stages in all; by default one a rank, two for "zbv" and "interleaved".
        sequence_parallel: divide what tensor parallelism leaves whole, norms and what is between them, by positions.
        sub_batches: into how many parts the layers of tensor parallelism compute a micro-batch, one after the other, so
            that what one part sends travels while another computes.
        data_parallel: how replicas agree: all-reduce of gradients; "sparse", the same, but of tables that only
            embeddings read the rows that a batch has touched; or ZeRO-1 (a replica updates its share of the parameters,
            and keeps the optimizer's state of that share only).
        precision: what is computed in. "fp32": the dtypes of the parameters; else autocast, and for "fp16" a scaled
            loss.
        memory: bytes that a rank may use, for "auto".
        seed: of random operations such as dropout; 64 bits.
    """

    dp: int = 1
    tp: Widths = 1
    pp: int = 1
    microbatches: int = 1
    schedule: str = "1f1b"
    recompute: Recompute = 0.0
    keep: tuple[str, ...] = ()
    cuts: tuple[str, ...] | None = None
    stages: int | None = None
    sequence_parallel: bool = False
    sub_batches: int = 1
    data_parallel: DataParallel = "all-reduce"
    precision: Precision = "fp32"
    memory: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("dp", "pp", "microbatches"):
            _check_whole(name, getattr(self, name), 1)
        object.__setattr__(self, "tp", _checked_widths(self.tp, self.pp))
        self._check_tensor_parallelism()
        self._check_schedule()
        if self.stages is not None:
            _check_whole("stages", self.stages, 1, or_none=True)
            if self.stages % self.pp:
                raise ValueError(f"stages is {self.stages}; it must be a multiple of pp, which is {self.pp}")
        _check_one_of("data_parallel", self.data_parallel, ("all-reduce", "sparse", "zero1"))
        _check_one_of("precision", self.precision, PRECISIONS)
        if self.memory is not None:
            _check_whole("memory", self.memory, 0, or_none=True, unit=" bytes")
        _check_whole("seed", self.seed, *_SEEDS)
        _check_recompute(self.recompute, self.n_stages)
        object.__setattr__(self, "recompute", _hashable(self.recompute))
        object.__setattr__(self, "keep", _names("keep", self.keep))
        if self.cuts is not None:
            object.__setattr__(self, "cuts", _names("cuts", self.cuts))
            if len(self.cuts) != self.n_stages - 1:
                raise ValueError(f"cuts has {len(self.cuts)} names; {self.n_stages} stages have {self.n_stages - 1}")

    def _check_tensor_parallelism(self) -> None:
        _check_whole("sub_batches", self.sub_batches, 1)
        if self.sub_batches > 1 and self.tp == 1:
            raise ValueError(
                f"sub_batches is {self.sub_batches} and tp is 1; it is for tensor parallelism, whose messages it hides"
            )
        if self.sub_batches > 1 and not isinstance(self.tp, int):
            raise ValueError(
                f"sub_batches is {self.sub_batches} and tp is {self.tp}; it needs one tp for all pipeline ranks"
            )
        if not isinstance(self.sequence_parallel, bool):
            raise ValueError(f"sequence_parallel is {self.sequence_parallel!r}; it must be True or False")
        if self.sequence_parallel and self.tp == 1:
            raise ValueError(
                "sequence_parallel is True and tp is 1; it divides over the ranks of tp, of which there must be 2"
            )

    def _check_schedule(self) -> None:
        schedule: Any = self.schedule
        if not isinstance(schedule, str) or (schedule not in KINDS and not schedule.endswith(".csv")):
            raise ValueError(f"schedule is {schedule!r}; it must be one of {', '.join(KINDS)}, or a path to a .csv")

    @property
    def widths(self) -> tuple[int, ...]:
        """Of each pipeline rank: how many ranks share its layers."""
        return (self.tp,) * self.pp if isinstance(self.tp, int) else self.tp

    @property
    def world_size(self) -> int:
        """How many ranks it is for."""
        return self.dp * sum(self.widths)

    def place_of(self, rank: int) -> tuple[int, int, int]:
        """Pipeline, data-parallel and tensor-parallel rank of a rank of the world. Pipeline ranks are outermost, then
        data-parallel ones."""
        for pp_rank, width in enumerate(self.widths):
            if rank < self.dp * width:
                return pp_rank, rank // width, rank % width
            rank -= self.dp * width
        raise ValueError(f"the plan has {self.world_size} ranks, and none beyond")

    def rank_at(self, pp_rank: int, dp_rank: int, tp_rank: int) -> int:
        """The rank of the world with these places."""
        width = self.widths[pp_rank]
        return self.dp * sum(self.widths[:pp_rank]) + dp_rank * width + tp_rank

    def team(self, pp_rank: int, dp_rank: int = 0) -> list[int]:
        """The ranks of the world that share a pipeline rank's layers in one replica."""
        return [self.rank_at(pp_rank, dp_rank, tp_rank) for tp_rank in range(self.widths[pp_rank])]

    def check_world(self, ranks: int) -> None:
        """Refuses other numbers of ranks than `world_size`, and says what would do.

        Raises:
            ValueError: there are more, or fewer.
        """
        if ranks == self.world_size:
            return
        tp = self.tp if isinstance(self.tp, int) else f"({' + '.join(map(str, self.tp))})"
        size = f"dp {self.dp} x tp {tp}" + (f" x pp {self.pp}" if isinstance(self.tp, int) else "")
        fitting = []
        if ranks % sum(self.widths) == 0:
            fitting.append(f"dp={ranks // sum(self.widths)}")
        if ranks % self.dp == 0 and (of_replica := ranks // self.dp) >= self.pp:
            each, more = divmod(of_replica, self.pp)
            fitting.append(f"tp={(each + 1,) * more + (each,) * (self.pp - more) if more else each}")
        advice = f"; it would fit with {' or '.join(fitting)}" if fitting else ""
        raise ValueError(f"the plan is for {self.world_size} ranks ({size}), and {ranks} are running{advice}")

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
        """The plan that `to_json` wrote.

        Raises:
            ValueError: it is none, or one that cannot be.
        """
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise ValueError(f"a plan in JSON must be what `to_json` writes, and this is no JSON: {error}") from error
        if not isinstance(fields, dict):
            raise ValueError(f"a plan in JSON is {fields!r:.80}; it must be an object with a plan's fields")
        known = [field.name for field in dataclasses.fields(Plan)]
        if unknown := sorted(fields.keys() - set(known)):
            raise ValueError(f"a plan has no {', '.join(unknown)}; its fields are {', '.join(known)}")
        return Plan(**fields)

    def save(self, path: str | Path) -> None:
        """Writes `to_json` to a file."""
        Path(path).write_text(self.to_json())

    @staticmethod
    def load(path: str | Path) -> Plan:
        """The plan in a file."""
        return Plan.from_json(Path(path).read_text())


def autocast_dtype(precision: Precision) -> torch.dtype | None:
    """What is computed in; None for the parameters' own dtypes."""
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _check_whole(
    name: str, value: Any, least: int, most: int | None = None, *, or_none: bool = False, unit: str = ""
) -> None:
    """A whole number, in words such as `dp is 0; it must be 1 or more`."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or value < least or (most is not None and value > most):
        bounds = f"{least} or more" if most is None else f"between {least} and {most}"
        also = " (or None)" if or_none else ""
        raise ValueError(f"{name} is {value!r}; it must be {bounds}{unit}, a whole number{also}")


def _checked_widths(tp: Any, pp: int) -> Widths:
    """As `Plan.tp` is kept: a number where all pipeline ranks have the same."""
    if not isinstance(tp, list | tuple):
        _check_whole("tp", tp, 1)
        return int(tp)
    for width in tp:
        _check_whole("tp", width, 1)
    if len(tp) != pp:
        raise ValueError(f"tp has {len(tp)} numbers; it must have one for each of {pp} pipeline ranks, or be a number")
    return int(tp[0]) if len(set(tp)) == 1 else tuple(tp)


def _check_one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} is {value!r}; it must be {', '.join(map(repr, known[:-1]))} or {known[-1]!r}")


def _names(field: str, names: Any) -> tuple[str, ...]:
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{field} is {names!r}; it must be a sequence of names, as in ('layers.1',)")
    return tuple(names)


def _hashable(recompute: Recompute) -> Recompute:
    return recompute if isinstance(recompute, int | float | str) else tuple(recompute)


def _check_recompute(recompute: Any, stages: int) -> None:
    if recompute == "auto":
        return
    several = isinstance(recompute, list | tuple)
    ratios = list(recompute) if several else [recompute]
    if not all(isinstance(ratio, int | float) and not isinstance(ratio, bool) for ratio in ratios):
        raise ValueError(f"recompute is {recompute!r}; it must be 'auto', a ratio, or a ratio for each stage")
    if several and len(ratios) != stages:
        raise ValueError(f"recompute has {len(ratios)} ratios; there are {stages} stages")
    if bad := [ratio for ratio in ratios if not 0 <= ratio <= 1]:
        raise ValueError(f"recompute is {bad[0]}; a ratio lies between 0 and 1")
