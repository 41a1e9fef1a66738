"""merak beside DTensor: on random calls of all operations that merak has rules for, operands divided at random."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
import torch

from merak import _C
from merak._torch_compat import torch_minor
from merak.graph import CaptureError
from tests.sharding import dtensors, one_operation
from tests.sharding.calls import MAKERS, Drawn, called, names
from tests.sharding.dtensors import Divided, Simulated, Trials
from tests.sharding.operations import Draw

pytestmark = pytest.mark.skipif(
    tuple(map(int, torch_minor().split("."))) < (2, 15), reason="the differences are those of this DTensor"
)

MESHES: tuple[Mapping[str, int], ...] = ({"a": 2}, {"a": 3}, {"a": 2, "b": 2})
SAMPLE, ALL = 170, 10_000

VIEWS = "view reshape _unsafe_view view_as reshape_as unflatten flatten"
LENT = "view_as reshape_as expand_as type_as broadcast_tensors"
POOLS = "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d"
ENLARGED = "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d"
MEANS = "mse_loss smooth_l1_loss huber_loss binary_cross_entropy binary_cross_entropy_with_logits soft_margin_loss"

# Rules whose operations are not drawn: random ones, uninitialised memory, calls by keyword, merak's own, and two that
# have tests of their own below.
NOT_DRAWN = set(names("bernoulli rand_like randn_like empty_like _to_copy float experts broadcast_to numpy_T"))
NOT_DRAWN |= {f"merak::{name}_tokens" for name in ("gather", "place", "scatter")}

# All differences that there are, each with the operations that have it.
DIFFERENCES: tuple[tuple[str, str, str], ...] = (
    # DTensor is wrong: it says a result that is not the plain one's, or that differs between ranks.
    (
        "DTensor's numbers",
        "conv1d conv2d conv3d",
        "calls operands as they are though its rule is for whole ones (#186129)",
    ),
    (
        "DTensor's numbers",
        MEANS,
        "averages chunks of different sizes; of `mean` that was mended (#162692)",
    ),
    ("DTensor's numbers", "logsumexp", "looks for keepdim among the keywords, and it is the third argument"),
    ("DTensor's numbers", "embedding", "says that the result is whole where words are divided over two axes"),
    (
        "DTensor's numbers",
        "argmax argmin",
        "says that a result which every rank has whole is divided over an axis of the mesh over which nothing was",
    ),
    ("other results", "logsumexp", "the same"),
    ("other results", "conv1d conv2d conv3d", "the same as above: the result is said to be whole"),
    ("only DTensor", "conv1d conv2d conv3d", "the same"),
    # DTensor raises.
    ("DTensor refuses", "conv1d conv2d conv3d", "the same, with shapes that do not fit each other"),
    ("DTensor refuses", VIEWS + " linear matmul", "views, also those within products, of what does not divide evenly"),
    ("DTensor refuses", "lift_fresh_copy", "it has no rule"),
    ("only merak", "lift_fresh_copy", "the same"),
    ("DTensor refuses", "unbind", "asks for a redistribution by hand"),
    ("DTensor refuses", "scaled_dot_product_attention", "views as above; adds a mask that is no DTensor"),
    ("DTensor refuses", "rms_norm", "adds in place to what would have to be laid out anew"),
    ("DTensor refuses", "group_norm", "is told the number of rows of another rank"),
    (
        "DTensor refuses",
        "min max argmin argmax amin amax logsumexp embedding batch_norm " + ENLARGED + " " + POOLS,
        "calls kernels of nothing, on ranks without a part",
    ),
    # DTensor has no rule, or one that needs more.
    ("only merak", "linear addmm baddbmm", "a bias is added once the sum over what is divided is complete"),
    ("only merak", VIEWS + " linear matmul broadcast_tensors expand expand_as", "views of what does not divide evenly"),
    ("only merak", POOLS, "windows that do not overlap need nothing of other ranks"),
    ("only merak", "group_norm", "rows that do not divide evenly"),
    ("only merak", "tril triu", "DTensor has everything whole"),
    ("only merak", "batch_norm", "in evaluation rows, and what is normalised, are independent of each other"),
    ("only merak", "embedding", "ids need no layout of their own where words are divided"),
    ("only merak", "cross_entropy_loss", "classes may be divided: ranks exchange three numbers a row, within"),
    ("only merak", "scaled_dot_product_attention", "is one operation, not products of views"),
    # merak is more careful.
    ("only DTensor", "scaled_dot_product_attention", "kernels need features and positions whole; here it is products"),
    ("only DTensor", VIEWS, "where sizes do not fit, merak has all from there on whole"),
    ("only DTensor", "argmax argmin", "exchanges what each rank found, within; merak gathers"),
    ("only DTensor", "feature_dropout", "in evaluation it is nothing; merak has a rule for training"),
    ("only DTensor", LENT, "what lends its shape or dtype may be laid out anyhow; merak's rule has it like the result"),
    (
        "other results",
        "broadcast_tensors expand_as",
        "the same: what is broadcast is divided with what it is broadcast to",
    ),
    # PyTorch itself: of nothing, the mask of `native_dropout` in evaluation is of the dtype of the tensor.
    ("DTensor refuses", "native_dropout", "ranks have masks of different dtypes"),
    ("merak fails", "native_dropout", "the same, where the mask is gathered"),
    ("merak refuses", "embedding cross_entropy_loss", "a vocabulary is divided over one axis only, and merak says so"),
)


def drawn_for(seed: int) -> Drawn:
    return MAKERS[seed % len(MAKERS)](Draw(seed))


def random_layout(choice: random.Random, drawn: Drawn, axes: int) -> Divided:
    """Each operand whole, or divided over each axis along one of its dimensions."""
    return [
        [choice.choice([None, *(dim for dim in range(one.dim()) if one.shape[dim] > 1)]) for _ in range(axes)]
        for one in drawn.operands
    ]


@dataclass
class Report:
    """Differences, by what they are."""

    instances: int = 0
    compared: int = 0
    found: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    accepted: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, what: str, example: str) -> None:
        self.found.setdefault((name, what), []).append(example)


def same(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> bool:
    return len(found) == len(expected) and all(
        one.shape == two.shape and torch.allclose(one.double(), two.double(), equal_nan=True)
        for one, two in zip(found, expected, strict=True)
    )


def compare_numbers(
    report: Report, simulated: Simulated, drawn: Drawn, mesh: Mapping[str, int], divided: Divided, seed: int
) -> None:
    expected = drawn.run(drawn.operands)
    example = f"seed {seed}: {drawn} with {divided} over {list(mesh.values())}"
    try:
        if not same(one_operation.results_on_mesh(drawn, mesh, divided), expected):
            report.add(drawn.name, "merak's numbers", example)
    except CaptureError as error:
        report.add(drawn.name, "merak refuses", f"{example}: {error}")
    except Exception as error:
        report.add(drawn.name, "merak fails", f"{example}: {type(error).__name__}: {str(error)[:300]}")
    try:
        theirs = simulated.results(drawn, divided)
    except Exception as error:
        wrong = "must be the same to reconcile" in str(error)  # ranks differ in what it says is the same on all
        report.add(drawn.name, "DTensor's numbers" if wrong else "DTensor refuses", f"{example}: {str(error)[:300]}")
        return
    report.compared += 1
    if not same(theirs, expected):
        report.add(drawn.name, "DTensor's numbers", example)


def candidates(
    choice: random.Random, drawn: Drawn, ways: Sequence[tuple[int | None, ...]]
) -> Iterator[tuple[int | None, ...]]:
    """What may be divided together: what merak allows; dimensions of one size, from either end; anything."""
    operands = drawn.operands
    tried = list(ways)
    for number, one in enumerate(operands):
        for dim in range(one.dim()):
            for align in ("alone", "right", "left"):
                tried.append(
                    tuple(
                        dim if other == number else None if align == "alone" else _aligned(one, dim, two, align)
                        for other, two in enumerate(operands)
                    )
                )
    tried += [tuple(of for (of,) in random_layout(choice, drawn, 1)) for _ in range(4)]
    for way in dict.fromkeys(tried):
        sizes = [one.shape[dim] for one, dim in zip(operands, way, strict=True) if dim is not None]
        if sizes and min(sizes) > 1:
            yield way


def _aligned(one: torch.Tensor, dim: int, other: torch.Tensor, align: str) -> int | None:
    at = dim - one.dim() + other.dim() if align == "right" else dim
    return at if 0 <= at < other.dim() and other.shape[at] == one.shape[dim] else None


def compare_rules(report: Report, trials: Trials, drawn: Drawn, seed: int) -> None:
    """What either accepts over one axis of two ranks."""
    allowed = one_operation.Allowed(drawn)
    for way in candidates(random.Random(seed), drawn, list(allowed.ways)):
        # Averages, maxima and norms of parts, and parts that are not in one piece, are no layouts of both.
        ours, theirs = (
            None if results is not None and "other" in results else results
            for results in (allowed.ways.get(way), trials.results(drawn, way))
        )
        report.accepted["both"] += ours == theirs is not None
        if ours != theirs:
            what = "only merak" if theirs is None else "only DTensor" if ours is None else "other results"
            report.add(drawn.name, what, f"seed {seed}: {drawn} with {way}: {ours}, {theirs}")


def compared(seeds: Sequence[int]) -> Report:
    report = Report()
    for number, mesh in enumerate(MESHES):
        ranks = torch.Size(mesh.values()).numel()
        with dtensors.process_group(ranks):
            simulated = Simulated(tuple(mesh.values()))
            for seed in seeds[number :: len(MESHES)]:
                drawn = drawn_for(seed)
                report.instances += 1
                compare_numbers(
                    report, simulated, drawn, mesh, random_layout(random.Random(seed), drawn, len(mesh)), seed
                )
    with dtensors.process_group(2):
        trials = Trials()
        for seed in seeds:
            compare_rules(report, trials, drawn_for(seed), seed)
    return report


def check(report: Report) -> None:
    listed = {(name, what) for what, of, _ in DIFFERENCES for name in names(of)}
    unexpected = {key: examples for key, examples in report.found.items() if key not in listed}
    lines = [f"{what}: {name} ({len(of)} times, such as {of[0]})" for (name, what), of in unexpected.items()]
    assert not lines, "\n".join(lines)
    assert report.compared > 0.8 * report.instances, "DTensor refuses more than it should"
    assert report.accepted["both"] > report.instances, "hardly any layout is accepted by both"


def found_once() -> list[tuple[Drawn, list[int | None]]]:
    """Calls that merak got wrong, each with what is divided, over three ranks."""
    draw, ids = Draw(0), torch.tensor([0, 2, 1, 1, 0, 2])
    return [
        (Drawn(called("min.dim"), [draw.whole(6, 6, 4), 0, False]), [1]),
        (Drawn(called("native_dropout"), [draw.real(3, 6), 0.5, False]), [1]),
        (Drawn(called("squeeze.dims"), [draw.whole(6, 3, 3), [0, 2]]), [2]),
        (Drawn(called("view_as"), [draw.whole(6, 4), draw.whole(2, 3, 4)]), [0, None]),
        (Drawn(called("view_as"), [draw.whole(6, 4), draw.whole(2, 3, 4)]), [None, 2]),
        (Drawn(called("cross_entropy_loss"), [draw.real(6, 3), ids, None, 1]), [1, None]),
        (Drawn(called("cross_entropy_loss"), [draw.real(6, 3), ids, None, 1, 2]), [1, None]),
        (
            Drawn(
                called("batch_norm"), [draw.real(4, 2, 3), None, None, *draw.real(2, 2).abs(), False, 0.1, 1.0, False]
            ),
            [1, 0, None],
        ),
        (Drawn(called("broadcast_tensors"), [[draw.whole(4, 1, 6), draw.whole(5, 1)]]), [2, 0]),
    ]


@pytest.mark.parametrize("number", range(len(found_once())))
def test_what_was_found(number: int) -> None:
    drawn, divided = found_once()[number]
    found = one_operation.results_on_mesh(drawn, {"a": 3}, [[dim] for dim in divided])
    assert same(found, drawn.run(drawn.operands)), drawn


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize(("name", "shape"), [("numpy_T", []), ("broadcast_to", [[2, 5, 6, 4]])])
def test_those_that_are_not_drawn(name: str, shape: list[list[int]], dim: int) -> None:
    drawn = Drawn(called(name), [torch.randn(5, 6, 4, dtype=torch.float64), *shape])
    found = one_operation.results_on_mesh(drawn, {"a": 3}, [[dim]])
    assert same(found, drawn.run(drawn.operands)), drawn


def test_a_sample() -> None:
    check(compared(range(SAMPLE)))


@pytest.mark.slow
def test_ten_thousand_calls() -> None:
    report = compared(range(SAMPLE, SAMPLE + ALL))
    print(f"seeds {SAMPLE} to {SAMPLE + ALL}: {report.instances} calls, {report.compared} with DTensor's numbers")
    check(report)
    stale = [(what, name) for what, of, _ in DIFFERENCES for name in names(of) if (name, what) not in report.found]
    print("listed, and not met:", stale)


def test_all_rules_are_drawn() -> None:
    """Of merak's rules, those that are not: random, uninitialised, or of merak's own."""
    drawn = {drawn_for(seed).name for seed in range(4000)}
    left = set(_C.sharding_rules()) - drawn
    assert left <= NOT_DRAWN, sorted(left - NOT_DRAWN)
