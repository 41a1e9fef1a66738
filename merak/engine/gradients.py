"""Gradients of a rank's parameters: where they are, and how replicas agree on them.

The gradients of parameters that are complete at the same time lie one behind the other in one *bucket* of memory, a
bucket for each dtype; a parameter's `.grad` is a view of its bucket, so that nothing is copied before or after they are
reduced. A parameter that several stages of this rank use is complete with the last of them.

With all-reduce every replica gets all sums and updates all parameters; a table whose gradient has rows of zeros can be
a bucket of its own, of which only rows travel that some replica has. With ZeRO-1 a bucket has a *section* for each
replica, all of one length; whole parameters are dealt to sections, the largest first, each to the emptiest. A replica
gets the sums of its section (reduce-scatter), so that its optimizer has the state of those parameters only, and what it
made of them is gathered. That takes as many bytes on the wire, if sections are equally full.

A parameter that was *frozen* (`requires_grad_(False)`) when a step began gets no gradient in it, so that the optimizer
leaves it alone, as in one process. Its zeros travel all the same: what is sent must not depend on it. Where ranks
differ in what is frozen, it is frozen on all that have it, lest their copies drift apart.

Ranks of tensor parallelism have parts of most parameters, each with its gradient. Of a whole parameter that they have
used on different parts of a tensor (a norm, where the sequence is divided) each has a part of the gradient.

A parameter that several stages use has its gradient added up over them: over the ranks with the same part, or, where
stages are shared by different numbers of ranks, whole, by the first ranks of each.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from merak import sparse
from merak.sharding.divided import Division

Named = Mapping[str, nn.Parameter]


class Bucket:
    """The gradients of some parameters of one dtype, in one piece of memory.

    Attributes:
        table: the name of its only parameter, if that is a table of which only rows travel; else empty.
        flat: all sections.
        owner: of each parameter's name, the replica whose section it is in: by `sizes`.
    """

    def __init__(
        self, parameters: Named, sections: int, fixed: Mapping[str, int], sizes: Mapping[str, int], table: str = ""
    ) -> None:
        self.parameters, self.table = dict(parameters), table
        self.owner = _deal(parameters, sections, fixed, sizes)
        first = next(iter(parameters.values()))
        filled = [0] * sections
        starts = {}
        for name, parameter in parameters.items():
            starts[name] = filled[self.owner[name]]
            filled[self.owner[name]] += parameter.numel()
        self.section = max(filled)
        self.flat = torch.zeros(self.section * sections, dtype=first.dtype, device=first.device)
        self._starts = {name: self.owner[name] * self.section + start for name, start in starts.items()}
        self.views = self.views_of(self.flat)

    def views_of(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """The parameters' places in memory of the bucket's length."""
        return {
            name: flat[self._starts[name] : self._starts[name] + parameter.numel()].view_as(parameter)
            for name, parameter in self.parameters.items()
        }

    def show(self, section: int, sums: torch.Tensor) -> None:
        """Makes the gradients of a section's parameters views of its sums; the others have none."""
        for name, parameter in self.parameters.items():
            start = self._starts[name] - section * self.section
            mine = self.owner[name] == section
            parameter.grad = sums[start : start + parameter.numel()].view_as(parameter) if mine else None

    def clear(self) -> None:
        """Makes all gradients zero, in place; gradients that somebody replaced are put back."""
        self.flat.zero_()
        for name, parameter in self.parameters.items():
            parameter.grad = self.views[name]


class Gradients:
    """The gradients of one rank.

    Args:
        parameters: by name, those that get gradients.
        stages: of each name, the stages of this rank that use it.
        order: the stages of this rank, in the order in which their backwards end.
        replicas: group that gradients are added up over.
        shared: names of parameters that other ranks of the pipeline have too, with the group of all that have them;
            None for ranks that leave it to the first of theirs.
        sharded: ZeRO-1.
        tables: names of parameters of whose gradients only rows travel.
        tensor: group of the ranks that share layers with this one.
        division: which parameters these have parts of, or of whose gradients.
        is_even: whether all stages are shared by as many ranks, so that those of one place have the same parts.
    """

    def __init__(
        self,
        parameters: Named,
        stages: Mapping[str, Sequence[int]],
        order: Sequence[int],
        replicas: dist.ProcessGroup,
        shared: Mapping[str, dist.ProcessGroup | None],
        sharded: bool = False,
        tables: Collection[str] = (),
        tensor: dist.ProcessGroup | None = None,
        division: Division | None = None,
        is_even: bool = True,
    ) -> None:
        self._tensor, self._division, self._is_even = tensor, division or Division(), is_even
        # Of whole parameters, by which all ranks that share them deal them alike.
        sizes = {name: math.prod(self._division.shape(name, one)) for name, one in parameters.items()}
        self._replicas, self._sharded = replicas, sharded and replicas.size() > 1
        sections = replicas.size() if self._sharded else 1
        # By name, so that all ranks begin these in one order; and ranks of a pipeline must deal them alike.
        self._shared = [(name, group) for name, group in sorted(shared.items()) if name in parameters]
        fixed = {name: zlib.crc32(name.encode()) % sections for name, _ in self._shared}
        by_end: dict[tuple[int, torch.dtype, str], dict[str, nn.Parameter]] = {}
        for name, parameter in parameters.items():
            last = max(stages[name], key=list(order).index)
            alone = name if name in tables else ""
            by_end.setdefault((last, parameter.dtype, alone), {})[name] = parameter
        self._buckets: dict[int, list[Bucket]] = {}
        for (stage, _, table), members in by_end.items():
            self._buckets.setdefault(stage, []).append(Bucket(members, sections, fixed, sizes, table))
        self._parameters = dict(parameters)
        self._frozen = [False] * len(parameters)
        self._rows: list[tuple[torch.Tensor, Any]] = []
        owners = {name: owner for bucket in self.buckets for name, owner in bucket.owner.items()}
        here = replicas.rank() if self._sharded else 0
        self.own: dict[str, nn.Parameter] = {name: one for name, one in parameters.items() if owners[name] == here}
        """The parameters that this rank updates: all, or those of its sections."""
        self._working: list[dist.Work | None] = []
        self._values: list[tuple[Bucket, torch.Tensor]] = []
        if self._sharded:
            self._values = [(bucket, _move_values(bucket)) for bucket in self.buckets]
            self._own = {bucket: bucket.flat.new_empty(bucket.section) for bucket in self.buckets}

    @property
    def buckets(self) -> list[Bucket]:
        """All of them."""
        return [bucket for buckets in self._buckets.values() for bucket in buckets]

    @property
    def are_whole(self) -> bool:
        """Whether this rank has the sums of all its parameters' gradients, and not of `own` alone."""
        return not self._sharded

    def clear(self) -> None:
        """Before a step: all are zero. Takes note of what is frozen."""
        for bucket in self.buckets:
            bucket.clear()
        self._frozen = [not parameter.requires_grad for parameter in self._parameters.values()]

    def reduce(self, stage: int) -> None:
        """Begins to add up over replicas what is complete with this stage."""
        if self._replicas.size() == 1:
            return
        for bucket in self._buckets.get(stage, ()):
            if bucket.table:
                gradient = bucket.views[bucket.table]
                self._rows.append((gradient, sparse.all_reduce(gradient, group=self._replicas, async_op=True)))
                continue
            if self._sharded:
                work = dist.reduce_scatter_tensor(self._own[bucket], bucket.flat, group=self._replicas, async_op=True)
            else:
                work = dist.all_reduce(bucket.flat, group=self._replicas, async_op=True)
            self._working.append(work)

    def finish(self) -> None:
        """Waits for `reduce`, and adds up gradients of parameters that several ranks of the pipeline have."""
        if not self._parameters:
            return
        frozen = torch.tensor(self._frozen, dtype=torch.int32, device=self.buckets[0].flat.device)
        if self._replicas.size() > 1:
            self._working.append(dist.all_reduce(frozen, group=self._replicas, async_op=True))
        self._wait()
        if self._tensor is not None:
            dist.all_reduce(frozen, group=self._tensor)
        for table, work in self._rows:
            work.wait()
            (total,) = work.result()
            table.copy_(total)
        self._rows.clear()
        if self._sharded:
            for bucket, own in self._own.items():
                bucket.show(self._replicas.rank(), own)
        self._add_parts()
        flags = dict(zip(self._parameters, frozen.split(1), strict=True))
        for name, group in self._shared:
            if name in self.own and (gradient := self.own[name].grad) is not None:
                if self._is_even:
                    both = gradient, flags[name]
                    self._working += [dist.all_reduce(one, group=group, async_op=True) for one in both]
                else:
                    self._add_whole(name, gradient, flags[name], group)
        self._wait()
        self._frozen = [ranks > 0 for ranks in frozen.tolist()]

    def _add_parts(self) -> None:
        """Adds up the gradients of which ranks that share layers have parts."""
        for name, parameter in self.own.items():
            if name in self._division.partial and parameter.grad is not None:
                self._working.append(dist.all_reduce(parameter.grad, group=self._tensor, async_op=True))
        self._wait()

    def _add_whole(
        self, name: str, gradient: torch.Tensor, flag: torch.Tensor, group: dist.ProcessGroup | None
    ) -> None:
        """Adds up a gradient over stages that have other parts of it."""
        whole = self._division.whole(name, gradient)
        for one in (whole, flag):
            if group is not None:
                dist.all_reduce(one, group=group)
            if self._tensor is not None:
                dist.broadcast(one, group=self._tensor, group_src=0)
        if self._division.divides(name):
            gradient.copy_(self._division.part(name, whole))

    def drop_frozen(self) -> None:
        """After `finish`: what is frozen has no gradient. Until then it has zeros, which no norm minds."""
        for parameter, is_frozen in zip(self._parameters.values(), self._frozen, strict=True):
            if is_frozen:
                parameter.grad = None

    def scale(self, factor: float) -> None:
        """Multiplies the gradients of `own`."""
        gradients = [parameter.grad for parameter in self.own.values() if parameter.grad is not None]
        if gradients:
            torch._foreach_mul_(gradients, factor)

    def gather(self) -> None:
        """After the optimizer's step: every replica gets all parameters."""
        for bucket, values in self._values:
            begin = self._replicas.rank() * bucket.section
            mine = values[begin : begin + bucket.section].clone()
            self._working.append(dist.all_gather_into_tensor(values, mine, group=self._replicas, async_op=True))
        self._wait()

    def _wait(self) -> None:
        for work in self._working:
            if work is not None:
                work.wait()
        self._working.clear()


def _deal(names: Iterable[str], sections: int, fixed: Mapping[str, int], sizes: Mapping[str, int]) -> dict[str, int]:
    """To which section each parameter goes: the largest first, each to the emptiest."""
    filled = [0] * sections
    dealt: dict[str, int] = {}
    for name in sorted(names, key=lambda one: (one not in fixed, -sizes[one])):
        dealt[name] = fixed[name] if name in fixed else filled.index(min(filled))
        filled[dealt[name]] += sizes[name]
    return dealt


def _move_values(bucket: Bucket) -> torch.Tensor:
    """Moves the parameters' values into memory of the bucket's form."""
    values = torch.zeros_like(bucket.flat)
    for name, view in bucket.views_of(values).items():
        parameter = bucket.parameters[name]
        view.copy_(parameter.detach())
        parameter.data = view
    return values
