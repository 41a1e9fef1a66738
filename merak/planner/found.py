"""What a search for a plan has found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from merak.planner.cluster import Cluster
from merak.planner.explain import lines, plan_text
from merak.planner.link import Link
from merak.planner.plan import Plan
from merak.planner.prediction import Prediction
from merak.resharding.explaining import seconds_text
from merak.sharding.annotations import Annotation, Tactic

_GIGABYTE = 10**9


@dataclass(frozen=True)
class Found:
    """The plan that was found; `merak.parallelize` takes it as a plan.

    Attributes:
        best: its prediction.
        others: the next best ones that were looked at, from the fastest on.
        bound_s: no plan of those that were searched for takes less, by the formula.
        spaces, searched, simulated: how many there were, were searched, and plans simulated.
        seconds: that it took, capture apart.
        annotations: of layers that ranks share, where these have other layouts than Megatron's.
    """

    best: Prediction
    others: tuple[Prediction, ...]
    bound_s: float
    spaces: int
    searched: int
    simulated: int
    seconds: float
    _again: Callable[[Cluster, int], Found] = field(repr=False, compare=False)
    annotations: tuple[Annotation | Tactic, ...] = field(default=(), repr=False, compare=False)

    @property
    def plan(self) -> Plan:
        """The plan itself."""
        return self.best.plan

    @property
    def gap(self) -> float:
        """The share of a step that a better plan could save at most, by the formula."""
        return max(0.0, 1 - self.bound_s / self.best.step_s)

    def explain(self, most: int = 5) -> str:
        """What a step spends its time on, stage by stage, and why other plans are slower.

        Args:
            most: other plans to show.
        """
        return "\n".join([*lines(self.best, self.others[:most], self.bound_s), self._in_all()])

    def what_if(self, cluster: Cluster) -> str:
        """What more memory or faster links would bring: searches again, several times.

        Args:
            cluster: that it was found for.
        """
        return "\n".join(self._changes(cluster))

    def picture(self, path: str | Path, most: int = 5) -> None:
        """Draws there (.png, .svg, .pdf) the schedule, what ranks' memory holds over a step, and what a step is spent
        on.

        Args:
            most: other plans to show.
        Raises:
            ImportError: matplotlib is not installed.
        """
        from merak.planner.picture import draw

        draw(self.best, self.others[:most], Path(path))

    def save(self, path: str | Path) -> None:
        """Writes the plan there as JSON, which `merak.Plan.load` reads."""
        self.plan.save(path)

    def _in_all(self) -> str:
        return (
            f"{self.searched} of {self.spaces} spaces searched and {self.simulated} plans simulated in "
            f"{self.seconds:.1f} s; by the formula no plan is more than {self.gap:.0%} faster"
        )

    def _changes(self, cluster: Cluster) -> Iterator[str]:
        more = tuple(
            replace(
                group,
                device=replace(group.device, memory_bytes=group.device.memory_bytes + _GIGABYTE),
                memory_bytes=None if group.memory_bytes is None else group.memory_bytes + _GIGABYTE,
            )
            for group in cluster.groups
        )
        changes = {
            "one GB more on each device": (replace(cluster, groups=more), _GIGABYTE),
            "twice the bandwidth between hosts": (replace(cluster, between=_twice(cluster.between)), 0),
            "twice the bandwidth inside hosts": (
                replace(cluster, groups=tuple(replace(one, inside=_twice(one.inside)) for one in cluster.groups)),
                0,
            ),
        }
        for name, (other, memory) in changes.items():
            found = self._again(other, memory)
            seconds = found.best.step_s
            times = f"{self.best.step_s / seconds:.3f} times as fast"
            yield f"{name}: {seconds_text(seconds)}, {times}, with {plan_text(found.best)}"


def _twice(link: Link) -> Link:
    measured = {kind: (alpha, beta / 2) for kind, (alpha, beta) in link.collectives.items()}
    return Link(2 * link.bytes_per_s, link.latency_s, measured)
