"""A sharding of a whole model, completed from a few annotations.

Nothing here communicates or needs processes: it is what each rank will do, with the reasons, for any mesh.
"""

from __future__ import annotations

import inspect
import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import fx, nn

from merak import _C
from merak.graph.capture import LossFunction
from merak.graph.prepare import Prepared, prepare
from merak.sharding import explaining
from merak.sharding.annotations import (
    Annotation,
    AnnotationTuple,
    Tactic,
    as_list,
    axes_named,
    listed_by_wish,
    resolve,
)
from merak.sharding.program import Layout, Operation, Pieces, ShardableGraph, checked_mesh, nbytes_of
from merak.sharding.remedies import Remedy, remedy
from merak.sharding.short_dimensions import annotations_for_short
from merak.sharding.sub_axes import over_whole_axes, refine, share_sums

_TRAVELS = {
    "all_reduce": "all-reduce",
    "reduce_scatter": "reduce-scatter",
    "all_gather": "all-gather",
    "all_to_all": "all-to-all",
    "slice": "slice",
    "vary": "all-reduce",
    "borders": "halo exchange",
    "interval": "slice",
}


@dataclass(frozen=True)
class Reshard:
    """Something that travels.

    Attributes:
        tensor: what is laid out anew.
        operation: for whose sake, or by whom it was made.
        kind: of the collective in the forward ("" if nothing travels then), and in the backward.
        axis: of the mesh.
        nbytes, backward_nbytes: that a rank sends.
        parameter: whether it is a parameter; its gradient's sum can wait for the end of a step.
        cause: in words.
    """

    tensor: str
    operation: str
    kind: str
    backward_kind: str
    axis: str
    nbytes: float
    backward_nbytes: float
    parameter: bool
    cause: str


class Completion:
    """The layouts of all tensors, and what each operation needs of them.

    Attributes:
        mesh: sizes of the axes by name, as given.
        graph: that was completed; where annotations name parts of axes, over a refined mesh.
        layouts: of all values.
        ways: of each operation, how it computes, as C++ says it.
        not_followed: what annotations are called that an earlier one, and what follows from it, contradicts somewhere.
        idle: tactics, and whatever else made annotations, that made none for this graph.
    """

    def __init__(self, graph: ShardableGraph, wishes: Annotation | Tactic | Sequence[Annotation | Tactic]) -> None:
        wishes = as_list(wishes)
        by_wish = listed_by_wish(graph, wishes)
        self.mesh, more = graph.mesh, [one for of_wish in by_wish for one in of_wish]
        self.idle = [wish for wish, of_wish in zip(wishes, by_wish, strict=True) if not of_wish]
        self._by_hand = {one.label for one in more if not one.of_tactic}
        annotations: list[Annotation] = []
        tried: set[str] = set()
        while True:
            # What a tactic had wished for these is not to be followed, which nobody needs to be told.
            instead = {one.tensor for one in more}
            annotations = [*more, *(one for one in annotations if not one.of_tactic or one.tensor not in instead)]
            refined = refine(self.mesh, axes_named(annotations))
            if refined != graph.mesh:
                graph = graph.over(refined)
            self._complete(graph, resolve(graph, annotations))
            more = [one for one in annotations_for_short(self, annotations) if one.tensor not in tried]
            tried |= {one.tensor for one in more}
            if not more:
                break

    def _complete(self, graph: ShardableGraph, annotations: list[AnnotationTuple]) -> None:
        self.graph, self._annotations = graph, annotations
        try:
            found = graph.program.complete(annotations)
        except ValueError as error:
            raise ValueError(graph.in_names(str(error))) from None
        self.layouts: dict[fx.Node, Layout] = dict(zip(graph.values, found["layouts"], strict=True))
        self._sources = dict(zip(graph.values, found["annotations"], strict=True))
        self.ways: list[dict[str, Any]] = graph.program.assign(found["layouts"], found["wanted"])
        self._unfollowed: dict[str, list[fx.Node]] = {}
        for value, *_, label in (self._annotations[number] for number in found["not_followed"]):
            self._unfollowed.setdefault(label, []).append(graph.values[value])
        self.not_followed = sorted(self._unfollowed)
        if graph.mesh != self.mesh:
            for way in self.ways:
                for when in ("before", "after"):
                    way[when] = [over_whole_axes(graph.mesh, steps) for steps in way[when]]
            self._share_sums()

    def _share_sums(self) -> None:
        """Of a tensor whose gradients are added up over a whole axis for one operation, and over parts of it for
        another, they are added up once."""
        uses: dict[fx.Node, list[list[Any]]] = {}
        for operation, way in zip(self.graph.operations, self.ways, strict=True):
            for node, steps in zip(operation.operands, way["before"], strict=True):
                if node is not None:
                    uses.setdefault(node, []).append(steps)
        for lists in uses.values():
            share_sums(lists)

    def with_first(self, annotation: Annotation) -> Completion:
        """What becomes of it if there is another annotation before all others."""
        first = min((one[4] for one in self._annotations), default=0) - 1
        made = object.__new__(Completion)
        made.mesh, made.idle, made._by_hand = self.mesh, self.idle, self._by_hand
        annotations = resolve(self.graph, [replace(annotation, priority=first)])
        made._complete(self.graph, [*annotations, *self._annotations])
        return made

    def first_priority(self, node: fx.Node) -> int | None:
        """The priority that puts another annotation of a tensor before all others; None where being the first of the
        list is enough, since it is annotated by none that is made by hand."""
        by_hand = {one[0] for one in self._annotations if one[-1] in self._by_hand}
        first = min((one[4] for one in self._annotations), default=0)
        return (first - 1) // 2 if self.graph.number[node] in by_hand else None  # these are twice what users give

    def unfollowed(self) -> Iterator[tuple[str, bool, str]]:
        """Annotations that are not followed: what they are called, whether they are made by hand, and what lies how
        instead."""
        for label in self.not_followed:
            nodes = list(dict.fromkeys(self._unfollowed[label]))
            more = f" (and {len(nodes) - 1} other tensors)" if len(nodes) > 1 else ""
            text = f"{self.name(nodes[0])} lies as {self.layout_text(nodes[0])} by {self.because(nodes[0])}{more}"
            yield label, label in self._by_hand, text

    def layout_text(self, node: fx.Node) -> str:
        """Such as `(dp, -, tp)`; of a dimension that is cut in pieces, `(3 x tp)`."""
        return "(" + ", ".join(self._dim_text(pieces) for pieces in self.layouts[node]) + ")"

    def _dim_text(self, pieces: Pieces) -> str:
        names = list(self.graph.mesh)
        if not any(axes for _, axes in pieces):
            return "-"
        return " x ".join("*".join(names[axis] for axis in axes) if axes else str(size) for size, axes in pieces)

    def reshards(self) -> list[Reshard]:
        """All that travels, each once: operations that need the same of a tensor share it."""
        return [one for _, one in self.reshards_of_operations()]

    def reshards_of_operations(self) -> Iterator[tuple[Operation, Reshard]]:
        """The same, each with the operation that it is for."""
        seen: set[tuple[fx.Node, str]] = set()
        for operation, way in zip(self.graph.operations, self.ways, strict=True):
            for node, steps in zip(operation.operands, way["before"], strict=True):
                for count in range(1, len(steps) + 1):
                    assert node is not None, "what is not given is not laid out anew"
                    key = (node, repr(steps[:count]))
                    if key not in seen:
                        seen.add(key)
                        yield from self._reshard(operation, node, steps[count - 1], "needs")
            if operation.name == "experts" and way["inside"]:
                yield from self._rows_of_experts(operation, way)
            for node, steps in zip(operation.results, way["after"], strict=True):
                for step in steps:
                    assert node is not None, "what nobody takes is not laid out anew"
                    yield from self._reshard(operation, node, step, "gives")

    def _reshard(
        self, operation: Operation, node: fx.Node, step: dict[str, Any], how: str
    ) -> Iterator[tuple[Operation, Reshard]]:
        if not step["nbytes"] and not step["backward_nbytes"]:
            return
        kind = step["kind"]
        back = {"all_gather": "reduce-scatter", "reduce_scatter": "all-gather", "slice": "all-gather"}
        has_forward = kind not in ("vary", "slice")
        yield (
            operation,
            Reshard(
                tensor=self.name(node),
                operation=operation.node.name,
                kind=_TRAVELS[kind] if has_forward else "",
                backward_kind=back.get(kind, _TRAVELS[kind]) if step["backward_nbytes"] else "",
                axis=self._axis_name(step["axes"]),
                nbytes=step["nbytes"],
                backward_nbytes=step["backward_nbytes"],
                parameter=self.graph.is_parameter(node),
                cause=self._cause(operation, node, step, how),
            ),
        )

    def _axis_name(self, axes: Sequence[int]) -> str:
        if len(axes) > 1:  # all parts of one
            return next(name for name in self.mesh if self.graph.axes(name) == list(axes))
        return list(self.graph.mesh)[axes[0]]

    def _rows_of_experts(self, operation: Operation, way: dict[str, Any]) -> Iterator[tuple[Operation, Reshard]]:
        """What travels inside, if experts get the same number of rows."""
        rows, index = operation.operands[:2]
        assert rows is not None, "experts are given rows"
        assert index is not None, "and their numbers"
        sizes = list(self.graph.mesh.values())
        axes = [axis for factor in way["inside"] for _, of_piece in way["factors"][factor] for axis in of_piece]
        ranks = math.prod(sizes[one] for _, of_piece in way["operands"][0][0] for one in of_piece)
        ends = (rows, "rows go to their experts"), (operation.node, "rows come back from their experts")
        for axis, (node, cause) in itertools.product(axes, ends):
            nbytes = nbytes_of(rows) * index.meta["val"].shape[1] / ranks * (sizes[axis] - 1) / sizes[axis]
            yield (
                operation,
                Reshard(
                    tensor=self.name(node),
                    operation=operation.node.name,
                    kind="all-to-all",
                    backward_kind="all-to-all",
                    axis=list(self.graph.mesh)[axis],
                    nbytes=nbytes,
                    backward_nbytes=nbytes,
                    parameter=False,
                    cause=cause,
                ),
            )

    def _cause(self, operation: Operation, node: fx.Node, step: dict[str, Any], how: str) -> str:
        if step["kind"] == "vary":
            return f"{operation.name} computes parts with it, each of which has a part of its gradient"
        if step["kind"] == "all_reduce":
            return f"{operation.name} sums over what is divided"
        if step["kind"] == "reduce_scatter":
            return f"{operation.name} sums over what is divided, and its result is divided by {self.because(node)}"
        verb = "needs it" if how == "needs" else "makes it"
        return f"{operation.name} {verb} otherwise than it is kept, by {self.because(node)}"

    def name(self, node: fx.Node) -> str:
        """What annotations call a tensor."""
        return self.graph.name(node)

    def because(self, node: fx.Node) -> str:
        """The annotations that a layout comes from."""
        numbers = {number for number in self._sources[node] if number >= 0}
        return " and ".join(sorted({self._annotations[number][-1] for number in numbers})) or "nothing"

    def origins(self, node: fx.Node, dims: Sequence[int]) -> list[tuple[fx.Node, list[int]]]:
        """The dimensions of annotated tensors that these of a tensor follow."""
        numbers = {number for dim in dims if (number := self._sources[node][dim]) >= 0}
        return [(self.graph.values[value], [dim]) for value, dim, *_ in (self._annotations[one] for one in numbers)]

    def remedy(self, reshard: Reshard) -> Remedy | None:
        """The annotation that would remove something that travels, None if none does; it is found by trying."""
        return remedy(self, reshard)

    def without_rules(self) -> dict[str, list[str]]:
        """By what is called: the operations of which nothing is known, so that every rank computes them whole."""
        known = set(_C.sharding_rules())
        found: dict[str, list[str]] = {}
        for number, operation in enumerate(self.graph.operations):
            tensors = [one for one in operation.operands if one in self.layouts]
            could_be_divided = any(self.graph.shape(one) for one in tensors if one is not None)
            if operation.name not in known and number not in self.graph.of_dtensor and could_be_divided:
                found.setdefault(operation.name, []).append(operation.node.name)
        return found

    def by_dtensor(self) -> dict[str, list[str]]:
        """By what is called: the operations that are divided as DTensor would."""
        found: dict[str, list[str]] = {}
        for number in self.graph.of_dtensor:
            if self.ways[number]["divided"]:
                operation = self.graph.operations[number]
                found.setdefault(operation.name, []).append(operation.node.name)
        return found

    def picture(self, path: str | Path) -> None:
        """Draws what travels, module by module, as PNG.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from merak.sharding.picture import draw

        draw(self, path)

    def explain(self, most: int = 40, *, remedies: bool = True) -> str:
        """Tables of what is divided and why, and of what travels and why.

        Args:
            most: rows of a table.
            remedies: say of what travels which annotation would remove it; once for all of the same kind, whose names
                differ by numbers only. Each is found by completing again.
        """
        return explaining.text(self, most, remedies)


def complete(
    model: nn.Module | Prepared,
    batch: Mapping[str, Any] | None = None,
    *,
    mesh: Mapping[str, int],
    annotations: Annotation | Tactic | Sequence[Annotation | Tactic],
    loss_fn: LossFunction | None = None,
    training: bool = True,
) -> Completion:
    """Completes the sharding of a model over a mesh.

    Warns of annotations that are not followed, since an earlier one settles otherwise what they ask for, of tactics
    that find nothing to divide, and if nothing is divided.

    Args:
        model: a plain model, on any device, or a graph of one.
        batch: an example of what it is called with.
        mesh: sizes of the axes by name.
        annotations: what is divided over which axes; the earlier ones win.

    Raises:
        CaptureError: the model cannot be captured.
        ValueError: annotations contradict each other, or name what there is not.
    """
    wishes, mesh = as_list(annotations), checked_mesh(mesh)
    if isinstance(model, nn.Module):
        if not hasattr(batch, "keys"):
            named = ", ".join(f"{name!r}: ..." for name in inspect.signature(model.forward).parameters)
            is_given = "needs an example of its batch" if batch is None else f"is given a {type(batch).__name__}"
            raise ValueError(f"a model {is_given} to be captured with; give a dict by name, such as {{{named}}}")
        assert batch is not None, "which has keys"
        model = prepare(model, batch, training=training, loss_fn=loss_fn)
    completion = Completion(ShardableGraph(model, mesh), wishes)
    for complaint in explaining.complaints(completion) if wishes else ():
        warnings.warn(complaint, UserWarning, stacklevel=2)
    return completion
