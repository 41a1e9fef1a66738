"""Borders that ranks exchange: same numbers as whole tensors, for any sizes; and nothing but borders travels."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn

from merak import sharding
from merak.graph import prepare
from merak.sharding import ShardedModule
from merak.sharding.completion import Completion
from merak.sharding.lower import lower
from merak.sharding.parts import Place, gather, parts
from merak.sharding.program import ShardableGraph
from tests.backend.harness import Context
from tests.engine import zoo
from tests.sharding import whole
from tests.sharding.chains import Chain
from tests.sharding.test_module import when_compiled
from tests.sharding.test_same_numbers import assert_same

Runner = Callable[..., list[Any]]
MESHES: tuple[dict[str, int], ...] = ({"a": 2}, {"a": 3}, {"a": 4}, {"a": 2, "b": 2})
SEEDS = 1500  # of each mesh; `make test` runs a sample, the rest takes some minutes: `pytest -m slow`
SAMPLE = ({"a": 3}, {"a": 2, "b": 2})


def annotations_of(chain: Chain, choice: random.Random, axes: list[str]) -> list[Any]:
    """Dimensions of the operands and results, each axis of one of them."""
    found = []
    for number, axis in enumerate(axes if chain.divisible else []):
        node = choice.choice(chain.divisible)
        dims = node.meta["val"].dim()
        dim = choice.choice([dim for dim in range(dims) if dim != number or dims == 1])
        spec = tuple(axis if at == dim else None for at in range(dims))
        name = chain.captured.sources[node.name].key if node.op == "placeholder" else node.name
        found.append(sharding.annotate(name, spec, priority=len(found)))  # of one tensor, the first wins
    return found


def differs(chain: Chain, completion: Completion, places: Any) -> str:
    """What a rank's part of the result or of gradients is not."""
    lowered = lower(completion, places)
    local: dict[str, torch.Tensor] = {}
    for key, tensor in chain.operands.items():
        layout = lowered.layouts.get(key)
        part = tensor.detach() if layout is None else parts(tensor.detach(), layout, places)
        local[key] = part.clone().requires_grad_(layout is not None)
    given = [
        local[lowered.captured.sources[one.name].key] for one in lowered.captured.graph.find_nodes(op="placeholder")
    ]
    (made,) = fx.GraphModule(nn.Module(), lowered.captured.graph)(*given)
    layout = completion.layouts[chain.result]
    expected = parts(chain.result.meta["val"].detach(), layout, places)
    problem = ""
    if made.shape != expected.shape or not torch.allclose(made, expected, rtol=1e-10, atol=1e-10):
        problem = f"{layout}: {list(made.shape)} for {list(expected.shape)}"
    if not made.requires_grad:
        return problem
    made.backward(parts(chain.of_result, layout, places))  # on all ranks, or they would wait for each other
    for key, gradient in chain.gradients.items():
        if key not in lowered.layouts or gradient is None:
            continue
        mine = local[key].grad
        mine = torch.zeros_like(local[key]) if mine is None else mine
        found = gather(mine, lowered.layouts[key], places)
        if float((found - gradient).norm()) > 1e-9 * (1 + float(gradient.norm())):
            problem = problem or f"the gradient of {key}"
    return problem


def trial(context: Context, mesh: dict[str, int], seeds: range) -> tuple[list[str], int]:
    """What is wrong, by seed; and how many calls exchanged borders."""
    known: dict[tuple[str, ...], list[Place]] = {}
    wrong, exchanged = [], 0
    for seed in seeds:
        choice = random.Random(seed)
        chain = Chain(seed)
        annotations = annotations_of(chain, choice, list(mesh))
        completion = Completion(ShardableGraph(chain.prepared, mesh), annotations)
        steps = [step["kind"] for way in completion.ways for of in way["before"] for step in of]
        exchanged += "borders" in steps
        if problem := differs(chain, completion, whole.places_on(completion, context.rank, known)):
            wrong.append(
                f"seed {seed} of {mesh}: {chain} with {[one.label for one in annotations]}, {steps}: {problem}"
            )
    return wrong, exchanged


def meshes() -> list[Any]:
    """With numbers of seeds."""
    sample = [pytest.param(mesh, 50, id=f"{mesh}-sample") for mesh in SAMPLE]
    return sample + [pytest.param(mesh, SEEDS, id=str(mesh), marks=pytest.mark.slow) for mesh in MESHES]


@pytest.mark.parametrize(("mesh", "count"), meshes())
def test_same_numbers_as_whole_tensors(run: Runner, mesh: dict[str, int], count: int) -> None:
    ranks = 1
    for size in mesh.values():
        ranks *= size
    for wrong, exchanged in run(trial, mesh, range(count), world_size=ranks, deadline=600):
        assert not wrong, "\n".join(wrong[:5])
        assert exchanged > count / 10, "hardly anything is exchanged"


# Models ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("model", ["swin", "resnet", "unet", "vit"])
def test_models_divided_by_rows_of_images(run: Runner, model: str, ranks: int) -> None:
    outcomes = run(whole.on_mesh, model, {"tp": ranks}, ["spatial"], 4, torch.float64, world_size=ranks, deadline=240)
    expected = whole.in_one_process(model, 4, torch.float64)
    for (outcome,) in outcomes:
        assert_same(outcome, expected, 1e-5, "spatial")


# Bytes ----------------------------------------------------------------------------------------------------------------


class TwoConvolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, pixels: torch.Tensor) -> Any:
        """A number, and the image that it is of."""
        made = self.second(self.first(pixels).relu())
        return {"loss": made.square().sum(), "made": made}


ROWS, HEIGHT, WIDTH = 2, 16, 10


def two_convolutions(ranks: int) -> tuple[nn.Module, dict[str, torch.Tensor], Completion]:
    torch.manual_seed(3)
    model, batch = TwoConvolutions(), {"pixels": torch.randn(ROWS, 3, HEIGHT, WIDTH)}
    completion = sharding.complete(model, batch, mesh={"tp": ranks}, annotations=[sharding.spatial("tp")])
    return model, batch, completion


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_only_borders_travel(ranks: int) -> None:
    _, _, completion = two_convolutions(ranks)
    row = ROWS * 8 * WIDTH * 4
    neighbours = 1 if ranks == 2 else 2
    found = [one for one in completion.reshards() if not one.parameter and one.kind != "all-reduce"]
    assert [(one.kind, one.backward_kind) for one in found] == [("halo exchange", "halo exchange")], "of the second"
    assert (found[0].nbytes, found[0].backward_nbytes) == (neighbours * row, neighbours * row)
    assert "halo exchange" in completion.explain()


def compiled(context: Context) -> list[str]:
    """What differs when torch.compile traces a graph with an exchange, and its backward."""
    model, batch, completion = two_convolutions(3)
    mesh = torch.distributed.init_device_mesh("cpu", (3,), mesh_dim_names=("tp",))
    divided = ShardedModule(model, completion, mesh)
    model(**batch)["loss"].backward()
    gradients, wrong = when_compiled(divided, batch)
    for one, (name, plain) in zip(gradients, model.named_parameters(), strict=True):
        if one is None or not torch.allclose(one, plain.grad, rtol=1e-4, atol=1e-4):
            wrong.append(name)
    return wrong


@pytest.mark.slow
def test_an_exchange_can_be_compiled(run: Runner) -> None:
    for wrong in run(compiled, world_size=3, deadline=240):
        assert not wrong


def travels(name: str, ranks: int, *, training: bool = True) -> tuple[Counter[str], Counter[str]]:
    """What does in the forward and in the backward when rows of images are divided; sums of gradients left out."""
    loss_fn = zoo.ZOO[name].loss_fn
    made = prepare(zoo.make(name), zoo.batch_of(name, 2, 0), loss_fn=loss_fn, training=training)
    completion = sharding.complete(made, mesh={"tp": ranks}, annotations=[sharding.spatial("tp")])
    found = [one for one in completion.reshards() if not one.parameter]
    backward = Counter(one.backward_kind for one in found if one.backward_kind not in ("", "all-reduce"))
    return Counter(one.kind for one in found if one.kind), backward


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_windows_of_swin_stay_where_they_are(ranks: int) -> None:
    forward, backward = travels("swin", ranks)
    assert forward == {"halo exchange": 4, "all-gather": 1}, "two blocks shift, and shift back; the mean of all patches"
    assert backward == {"halo exchange": 4}


@pytest.mark.slow
def test_a_resnet_in_evaluation_exchanges_borders_only() -> None:
    forward, _ = travels("resnet", 2, training=False)
    assert forward == {"halo exchange": 9, "all-gather": 1}, (
        "eight convolutions of 3 x 3, a pooling; the mean of all pixels"
    )
