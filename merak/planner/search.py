"""The plan that trains a model fastest on a cluster, found automatically.

After Alpa (Zheng et al., OSDI 2022): between operators a dynamic program, within them layouts completed from few
annotations. What is new to it is that recomputation, schedules with their own memory, and ranks that compute a
micro-batch in parts are in the search, and that the best candidates are simulated before one is chosen.

A *space* is what is settled before stages are looked for: how many replicas, rows of a micro-batch, and how ranks
share layers. For each there is a *bound*, a step without any waiting on the devices that do its work cheapest. Spaces
are searched in the order of their bounds, until the next bound is above the best step found:

1. Within a space csrc/planner finds, for each number of stages, where they begin, on how many devices each is, and the
   least that has to be recomputed, by a formula of the step.
2. The best of these are predicted for all schedules that they can run under: cut once more at all operations, and
   simulated. The fastest step wins.
3. Where all ranks are alike, schedules whose stages go round the ranks several times are predicted too, with stages
   that are cut for them. They wait less in the same arrangement; `_went_round` says how much at best, and where that
   would not win they are left out.

Ranks share layers by Megatron's way. With `layouts` an integer program (layout_plan.py) looks for other layouts, for
each number of ranks, on the devices and for the micro-batches of the plan that was found. Where they are cheaper the
spaces are searched once more with them, those whose bound is below that plan's step. The plan is replaced by a faster
one, so it is never worse than Megatron's.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from merak.graph.capture import LossFunction
from merak.graph.cutting import DoesNotFitError
from merak.planner.arrangements import Arrangement, Space, arrangements, ideal_s
from merak.planner.cluster import Cluster
from merak.planner.found import Found
from merak.planner.layout_choice import by_width, cheaper_layouts
from merak.planner.plan import PRECISIONS, Plan, Precision, autocast_dtype
from merak.planner.prediction import Prediction, kind_of_rank, predict
from merak.planner.prices import Prices
from merak.planner.running_ranks import cluster_of_ranks, found_by_all
from merak.planner.stage_cut import compute_order
from merak.planner.stage_search import NoStagesError, StagesDoNotFitError
from merak.planner.workload import Workload
from merak.sharding.annotations import Annotation, Tactic

_PINS = ("dp", "tp", "pp", "microbatches", "schedule", "sequence_parallel", "sub_batches", "data_parallel")
_KEPT = 12
"""Candidates that are remembered."""
_SUB_BATCHES = (1, 2)
_WORTH = 1.1
"""How many times as long as the best step an arrangement may take by the formula, to be simulated."""
_DIAGNOSED = 6
"""Spaces of which it is found out what they miss, where nothing fits."""
_ARRANGEMENTS = 3
"""Of a space, that are simulated."""
_SCHEDULES = {"1f1b": ("1f1b", "shifted", "zero-bubble"), "eager": ("eager", "eager-delayed")}
"""Schedules by the kind that stages are searched for: how many micro-batches are in flight, and what hides messages."""
_ROUNDS = {"interleaved": (2, 4), "zero-bubble": (2,), "zbv": (2,)}
"""How many stages of each rank are tried, of schedules that go round."""


class NothingFitsError(ValueError):
    """No plan fits into the devices' memory; the text says what misses least, and what would help."""


def find_plan(
    model: nn.Module,
    example_inputs: Mapping[str, Any],
    cluster: Cluster | None = None,
    *,
    rows: int | None = None,
    memory: int | None = None,
    precision: Precision = "fp32",
    loss_fn: LossFunction | None = None,
    annotations: Sequence[Annotation | Tactic] = (),
    layouts: bool = False,
    progress: Callable[[str], None] | None = None,
    **pinned: Any,
) -> Found:
    """The plan that trains a model fastest.

    Args:
        model: a plain model, on any device; on "meta" it needs no memory.
        example_inputs: what `model(**example_inputs)` takes.
        cluster: on what; by default the ranks of the default process group, which are measured. Collective then, and
            the same plan on all of them.
        rows: of a step's batch, of all replicas together; those of the example by default.
        memory: bytes of each device that the plan may use; by default what the cluster says.
        precision: what is computed in: "fp32", "bf16", "fp16".
        annotations: what is divided over "tp" in other ways than Megatron's.
        layouts: look for other layouts than Megatron's; `Found.annotations` has them, for `merak.parallelize`.
        progress: is told how far the search is.
        pinned: fields of `Plan` that are settled: dp, tp, pp, microbatches, schedule, sequence_parallel, sub_batches,
            data_parallel.

    Raises:
        CaptureError: the model cannot be captured.
        NothingFitsError: it fits nowhere. It is a ValueError.
        ValueError: an argument makes no sense.
    """
    if unknown := pinned.keys() - set(_PINS):
        raise ValueError(f"{', '.join(sorted(unknown))} cannot be pinned; what can is {', '.join(_PINS)}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}")
    if cluster is None:
        find = functools.partial(
            find_plan,
            model,
            example_inputs,
            rows=rows,
            memory=memory,
            precision=precision,
            loss_fn=loss_fn,
            annotations=annotations,
            layouts=layouts,
            progress=progress,
            **pinned,
        )
        device = next((one.device for one in model.parameters()), torch.device("cpu"))
        return found_by_all(functools.partial(find, cluster=cluster_of_ranks(device)), device)
    autocast = autocast_dtype(precision)
    fused = not any(group.device.is_cpu for group in cluster.groups)
    workload = Workload(model, example_inputs, loss_fn=loss_fn, autocast=autocast, fused_attention=fused)
    prices = Prices(workload, cluster, precision=precision, annotations=annotations)
    search = Search(prices, rows or workload.rows, memory, pinned, progress or (lambda text: None))
    found = search.run()
    return with_layouts(found, search, annotations) if layouts else found


def with_layouts(found: Found, search: Search, annotations: Sequence[Annotation | Tactic] = ()) -> Found:
    """What is found with layouts of the integer program, if that is faster; else what was found.

    Args:
        search: by which it was found.
        annotations: the user's, which come first.
    """
    if search.pinned.get("sub_batches", 1) != 1 or search.pinned.get("sequence_parallel", False):
        return found
    cheaper = cheaper_layouts(search.prices, found.best, search.pinned)
    if not cheaper:
        return found
    also = (*annotations, by_width(cheaper))
    old = search.prices
    prices = Prices(old.workload, old.cluster, precision=old.precision, annotations=also)
    pinned = {**search.pinned, "sub_batches": 1, "sequence_parallel": False}
    other = Search(prices, search.rows, search.memory, pinned, search.progress).run_below(found.best.step_s)
    if other is None or other.best.step_s >= found.best.step_s:
        return found
    return replace(other, annotations=also, others=(found.best, *other.others), seconds=found.seconds + other.seconds)


@dataclass
class Search:
    """One search.

    Attributes:
        prices: of the model on the cluster.
        rows: of a step's batch.
        memory: bytes that a rank may use, if less than it has.
        pinned: fields of the plan that are settled.
        progress: is told how far it is.
    """

    prices: Prices
    rows: int
    memory: int | None
    pinned: Mapping[str, Any]
    progress: Callable[[str], None]
    _candidates: list[Prediction] = field(default_factory=list)
    _seen: set[tuple[Plan, tuple[int, ...] | None]] = field(default_factory=set)
    _simulated: int = 0

    def run(self) -> Found:
        """Searches."""
        found = self.run_below(float("inf"))
        if found is None:
            raise NothingFitsError(self._why_nothing_fits(list(self.spaces())))
        return found

    def run_below(self, step_s: float) -> Found | None:
        """Searches the spaces in which a step may take less; nothing if no plan of these fits."""
        began = time.perf_counter()
        ideals = [(ideal_s(self.prices, space, self.pinned), space) for space in self.spaces()]
        if not ideals:
            raise ValueError(
                f"no plan divides {self.rows} rows and {self.prices.cluster.devices} devices as it is pinned: "
                f"{dict(self.pinned)}"
            )
        searched, bounds = 0, []
        for ideal, space in sorted(ideals, key=lambda pair: pair[0]):
            if ideal >= min(step_s, self._best_s):
                bounds.append(ideal)
                break
            bounds.append(self._search(space))
            searched += 1
            self._tell(searched, len(ideals), space)
        if not self._candidates:
            return None
        best, *others = sorted(self._settled(), key=lambda one: one.step_s)
        seconds = time.perf_counter() - began
        return Found(best, tuple(others), min(bounds), len(ideals), searched, self._simulated, seconds, self.again)

    def again(self, cluster: Cluster, more_memory: int = 0) -> Found:
        """What would be found on another cluster, with so many bytes more on each device."""
        memory = None if self.memory is None else self.memory + more_memory
        return Search(self.prices.on(cluster), self.rows, memory, self.pinned, lambda text: None).run()

    def spaces(self) -> Iterator[Space]:
        """All that there are."""
        devices = self.prices.cluster.devices
        tp, pp = self.pinned.get("tp", 1), self.pinned.get("pp", 1)
        least = max(sum(tp) if isinstance(tp, tuple) else tp, pp)
        for dp in (one for one in range(1, devices + 1) if devices % one == 0 and self._may("dp", one)):
            if devices // dp < least:
                continue
            for microbatches in range(1, self.rows // dp + 1):
                if self.rows % (dp * microbatches) or not self._may("microbatches", microbatches):
                    continue
                rows = self.rows // (dp * microbatches)
                shared = devices > dp and self.pinned.get("tp") != 1
                for sequence_parallel in self._choices("sequence_parallel", (False, True) if shared else (False,)):
                    for sub_batches in self._choices("sub_batches", _SUB_BATCHES if shared else (1,)):
                        if rows % sub_batches == 0:
                            yield Space(dp, rows, microbatches, sequence_parallel, sub_batches)

    @property
    def _best_s(self) -> float:
        """The fastest step as yet."""
        return self._candidates[0].step_s if self._candidates else float("inf")

    def _search(self, space: Space) -> float:
        """Predicts the best plans of a space; gives its bound."""
        bounds = []
        for kind, schedules in _SCHEDULES.items():
            wanted = self._choices("schedule", schedules)
            rounds = {name: _ROUNDS[name] for name in self._choices("schedule", [*_ROUNDS])} if kind == "1f1b" else {}
            if not (wanted or rounds) or (kind == "eager" and self.prices.cluster.devices == space.dp):
                continue
            worth = _WORTH * self._best_s
            found, bound = arrangements(self.prices, space, kind, self.memory, self.pinned, most_s=worth)
            bounds.append(bound)
            for arrangement in found[:_ARRANGEMENTS]:
                if arrangement.step_s < _WORTH * self._best_s:
                    for schedule in wanted:
                        self._try(space, arrangement, schedule)
                for schedule, counts in rounds.items():
                    for count in counts:
                        if _went_round(arrangement, count) < self._best_s:
                            self._try_round(space, arrangement, schedule, count)
        return min(bounds, default=float("inf"))

    def _try(self, space: Space, arrangement: Arrangement, schedule: str) -> None:
        widths = arrangement.widths
        if (len(widths) > 1 or schedule == "1f1b") and (len(set(widths)) == 1 or space.sub_batches == 1):
            plan = self._plan(space, widths, schedule)
            self._simulate(plan, arrangement.segments)
            large_tables = self.prices.workload.has_large_tables
            if space.dp > 1 and "data_parallel" not in self.pinned and large_tables:
                self._simulate(replace(plan, data_parallel="sparse"), arrangement.segments)

    def _try_round(self, space: Space, arrangement: Arrangement, schedule: str, rounds: int) -> None:
        """With so many stages of each rank, which are looked for anew."""
        widths = arrangement.widths
        stages = rounds * len(widths)
        if len(set(widths)) > 1 or len(widths) == 1 or stages > len(self.prices.points) + 1:
            return
        plan = self._plan(space, widths, schedule)
        if len({kind_of_rank(plan, self.prices, rank) for rank in range(plan.pp)}) == 1:
            self._simulate(replace(plan, stages=stages), None)

    def _simulate(self, plan: Plan, segments: tuple[int, ...] | None) -> None:
        """Remembers the plan, if it can run, fits, and is among the best.

        Args:
            segments: where stages begin; None: where it is best.
        """
        if not can_run(plan) or (plan, segments) in self._seen:
            return
        self._seen.add((plan, segments))
        try:
            prediction = predict(plan, self.prices, self.rows, segments, in_segments=True)
        except DoesNotFitError:  # a schedule with more in flight than what was searched for
            return
        self._simulated += 1
        self._candidates = sorted([*self._candidates, prediction], key=lambda one: one.step_s)[:_KEPT]

    def _settled(self) -> Iterator[Prediction]:
        """The best candidates, at the resolution of operations: cut where they were, and recomputing what is settled
        then."""
        points = self.prices.points
        for candidate in self._candidates:
            boundaries = [points[segment - 1] for segment in candidate.boundaries]
            found = predict(candidate.plan, self.prices, self.rows, boundaries)
            shares = tuple(stage.share_recomputed for stage in found.cut.stages)
            settled = replace(found.plan, cuts=self._names(boundaries), recompute=shares)
            yield replace(found, plan=settled)

    def _plan(self, space: Space, widths: tuple[int, ...], schedule: str) -> Plan:
        shares = max(widths) > 1
        return Plan(
            dp=space.dp,
            tp=widths,
            pp=len(widths),
            microbatches=space.microbatches,
            schedule=schedule,
            recompute="auto",
            stages=len(widths),
            sequence_parallel=space.sequence_parallel and shares,
            sub_batches=space.sub_batches if shares else 1,
            data_parallel=self.pinned.get("data_parallel", "zero1" if space.dp > 1 else "all-reduce"),
            precision=self.prices.precision,
            memory=self.memory,
        )

    def _names(self, boundaries: Sequence[int]) -> tuple[str, ...]:
        trunk = self.prices.workload.prepared.cuttable.trunk
        return tuple(trunk[boundary].name for boundary in boundaries)

    def _may(self, name: str, value: Any) -> bool:
        return bool(self.pinned.get(name, value) == value)

    def _choices(self, name: str, values: Sequence[Any]) -> list[Any]:
        return [value for value in values if self._may(name, value)]

    def _tell(self, searched: int, spaces: int, space: Space) -> None:
        best = f"{self._best_s:.4g} s" if self._candidates else "none that fits"
        where = f"{space.dp} replicas, micro-batches of {space.rows} rows"
        self.progress(f"{searched} of {spaces} spaces: {where}; the best step: {best}")

    def _why_nothing_fits(self, spaces: Sequence[Space]) -> str:
        """Asks the spaces that keep the least at a time: those with the fewest rows in a micro-batch."""
        misses: list[tuple[float, str]] = []
        for space in sorted(spaces, key=lambda one: one.rows)[:_DIAGNOSED]:
            try:
                arrangements(self.prices, space, "1f1b", self.memory, self.pinned, diagnose=True)
            except StagesDoNotFitError as error:
                misses.append((sum(stage.missing_bytes for stage in error.stages.stages), str(error)))
            except NoStagesError as error:
                misses.append((float("inf"), str(error)))
        if not misses:
            return f"no plan is possible as it is pinned: {dict(self.pinned)}"
        return f"no plan fits into the devices' memory. What misses least: {min(misses)[1]}"


def _went_round(arrangement: Arrangement, rounds: int) -> float:
    """Seconds of a step with so many stages of each rank, if they wait as little as they can: what all passes but the
    slowest rank's add to a step is as many times shorter."""
    return arrangement.step_s - arrangement.waiting_s * (1 - 1 / rounds)


def can_run(plan: Plan) -> bool:
    """Whether the schedule takes so few micro-batches."""
    try:
        compute_order(plan)
    except ValueError:
        return False
    return True
