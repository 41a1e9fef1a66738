"""What a `ShardedModule` has: parameters in any order of axes, loaded, converted and copied; optimizers' states."""

from __future__ import annotations

import copy
import datetime
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import checkpoint

from merak import sharding
from merak._torch_compat import timeout_of
from tests.backend.harness import Context, RankError

Runner = Callable[..., list[Any]]
Spec = tuple[Any, ...]
WORDS = 11  # not a multiple of anything


class Scores(nn.Module):
    """A table, two layers and the cross entropy of a head."""

    def __init__(self, sparse: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 8, sparse=sparse)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, WORDS)
        self.register_buffer("ones", torch.ones(8))

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.down(self.up(self.words(ids)).sigmoid()) + self.ones
        logits = self.head(hidden)
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {name: torch.randint(0, WORDS, (4, 3), generator=generator) for name in ("ids", "labels")}


def made(mesh: dict[str, int], *annotations: Any, sparse: bool = False) -> tuple[Scores, sharding.ShardedModule]:
    torch.manual_seed(0)
    model = Scores(sparse)
    completion = sharding.complete(model, batch(), mesh=mesh, annotations=annotations)
    on = dist.init_device_mesh("cpu", tuple(mesh.values()), mesh_dim_names=tuple(mesh))
    return model, sharding.ShardedModule(model, completion, on)


def gradients(model: nn.Module, divided: sharding.ShardedModule) -> list[str]:
    """Whose are others than the plain model's."""
    model(**batch())["loss"].backward()
    divided(**batch())["loss"].backward()
    found = {name: divided.whole_gradient(name) for name, _ in model.named_parameters()}
    plain = {name: one.grad.to_dense() for name, one in model.named_parameters() if one.grad is not None}
    return [name for name, one in plain.items() if not torch.allclose(found[name], one, rtol=1e-4, atol=1e-6)]


ORDERS: dict[str, tuple[dict[str, int], Spec]] = {
    "axes": ({"dp": 2, "tp": 2}, ("tp", "dp")),
    "parts": ({"tp": 4}, ("tp:(2)2", "tp:(1)2")),
}


def in_another_order(context: Context, case: str, tensor: str) -> list[str]:
    """What is wrong with a parameter whose first dimension is divided over axes that are not in the mesh's order."""
    mesh, order = ORDERS[case]
    model, divided = made(mesh, sharding.annotate(tensor, (order, None)))
    state, plain = divided.state_dict(), model.state_dict()
    wrong = [f"state of {name}" for name in plain if not torch.equal(state[name].full_tensor(), plain[name])]
    wrong += [name for name in plain if not torch.equal(divided.whole(name), plain[name])]
    assert divided.get_parameter(tensor).shape[0] < model.get_parameter(tensor).shape[0]
    checkpoint.save(state, checkpoint_id=str(context.folder / "saved"))
    loaded = {name: torch.zeros_like(one) for name, one in plain.items()}
    checkpoint.load(loaded, checkpoint_id=str(context.folder / "saved"))
    wrong += [f"loaded {name}" for name in plain if not torch.equal(loaded[name], plain[name])]
    return wrong + gradients(model, divided)


@pytest.mark.parametrize(
    ("case", "tensor"), [("axes", "down.weight"), *(("parts", f"{name}.weight") for name in ("down", "words", "head"))]
)
def test_axes_in_another_order_than_the_meshs(run: Runner, case: str, tensor: str) -> None:
    for wrong in run(in_another_order, case, tensor, world_size=4, deadline=120):
        assert not wrong


def replaced(context: Context) -> list[str]:
    """What a module does not notice of tensors that take the place of its own."""
    model, divided = made({"dp": 2, "tp": 2}, sharding.batch("dp"), sharding.megatron("tp"))
    wrong = []
    other = {name: one + 1 for name, one in model.state_dict().items()}
    divided.load_state_dict(other, assign=True)
    wrong += [f"{name}, assigned" for name in other if not torch.equal(divided.whole(name), other[name])]
    divided.double()
    wrong += [f"{name}, double" for name in other if divided.whole(name).dtype != torch.float64]
    model.load_state_dict(other)
    model.double()
    wrong += gradients(model, divided)
    norm = nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    if not torch.allclose(divided.clip_grad_norm_(0.01).double(), norm):
        wrong.append("the norm")
    clipped = divided.whole_gradient("up.weight")
    if clipped is None or not torch.allclose(clipped, model.up.weight.grad):  # type: ignore[arg-type]
        wrong.append("a clipped gradient")
    return wrong


def test_tensors_may_be_replaced(run: Runner) -> None:
    for wrong in run(replaced, world_size=4, deadline=120):
        assert not wrong


def copied(context: Context) -> list[str]:
    """What is wrong with a copy."""
    model, divided = made({"dp": 2, "tp": 2}, sharding.batch("dp"), sharding.megatron("tp"))
    other = copy.deepcopy(divided)
    with torch.no_grad():
        for parameter in divided.parameters():
            parameter.zero_()
    del divided
    wrong = gradients(model, other)
    other.load_state_dict({name: one + 1 for name, one in model.state_dict().items()})
    wrong += [name for name, one in model.state_dict().items() if not torch.equal(other.whole(name), one + 1)]
    with pytest.raises(TypeError, match=r"save its state_dict\(\)"):
        pickle.dumps(other)
    return wrong


def test_a_copy_has_parameters_of_its_own(run: Runner) -> None:
    for wrong in run(copied, world_size=4, deadline=120):
        assert not wrong


def optimized(context: Context, folder: Path) -> list[str]:
    """What two steps, a checkpoint, another division and two more steps have made otherwise than four steps."""
    divisions: list[tuple[dict[str, int], list[Any]]] = [
        ({"dp": 2, "tp": 2}, [sharding.batch("dp"), sharding.megatron("tp")]),
        ({"dp": 4, "tp": 1}, [sharding.batch("dp"), sharding.zero("dp", least=1)]),
    ]
    for number, (mesh, tactics) in enumerate(divisions):
        model, divided = made(mesh, *tactics)
        optimizer = torch.optim.AdamW(divided.parameters(), 1e-2, eps=1e-4)
        if number:
            state = {"model": divided.state_dict(), "optimizer": divided.optimizer_state_dict(optimizer)}
            checkpoint.load(state, checkpoint_id=str(folder))
            divided.load_state_dict(state["model"])
            divided.load_optimizer_state_dict(optimizer, state["optimizer"])
        for _ in range(2):
            optimizer.zero_grad()
            divided(**batch())["loss"].backward()
            optimizer.step()
        if not number:
            state = {"model": divided.state_dict(), "optimizer": divided.optimizer_state_dict(optimizer)}
            checkpoint.save(state, checkpoint_id=str(folder))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, eps=1e-4)
    for _ in range(4):
        optimizer.zero_grad()
        model(**batch())["loss"].backward()
        optimizer.step()
    return [
        name
        for name, one in model.named_parameters()
        if not torch.allclose(divided.whole(name), one, rtol=1e-5, atol=1e-6)
    ]


def test_an_optimizers_state_goes_to_another_division(run: Runner, tmp_path: Path) -> None:
    for wrong in run(optimized, tmp_path / "saved", world_size=4, deadline=120):
        assert not wrong


def sparse(context: Context) -> list[str]:
    model, divided = made(
        {"dp": 2, "tp": 2}, sharding.batch("dp"), sharding.annotate("words.weight", ("tp", "dp")), sparse=True
    )
    return gradients(model, divided)


def test_sparse_gradients_of_a_table_that_is_gathered(run: Runner) -> None:
    for wrong in run(sparse, world_size=4, deadline=120):
        assert not wrong


class Asks(nn.Module):
    """Code that looks at how many rows there are."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what, self.up = what, nn.Linear(6, 10)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden, rows = self.up(x), x.shape[0]
        if self.what == "number":
            hidden = hidden / int(rows)
        if (self.what == "if" and rows != 4) or (self.what == "even" and rows % 2 == 0):
            hidden = hidden * 3
        if self.what == "loop":
            hidden = torch.stack([hidden[row] * row for row in range(rows)])
        return {"loss": hidden.square().mean()}


def asked(context: Context, what: str) -> str:
    model, mesh = Asks(what), {"dp": 2}
    completion = sharding.complete(
        model, {"x": torch.ones(4, 6)}, mesh=mesh, annotations=[sharding.annotate("up.weight", ("dp", None))]
    )
    divided = sharding.ShardedModule(model, completion, dist.init_device_mesh("cpu", (2,), mesh_dim_names=("dp",)))
    assert torch.isfinite(divided(x=torch.ones(4, 6))["loss"])
    with pytest.raises(ValueError, match="does not fit the example") as caught:
        divided(x=torch.ones(7, 6))
    return str(caught.value)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("number", "x: dimension 0 is 7 and must be 4"),
        ("if", "x: dimension 0 is 7 and must be 4"),
        ("even", "the model took its way where Eq(Mod(x.shape[0], 2), 0), and would go another now"),
        ("loop", "x: dimension 0 is 7 and must be 4"),
    ],
)
def test_rows_that_the_code_asked_about_stay(run: Runner, what: str, said: str) -> None:
    for text in run(asked, what, world_size=2, deadline=120):
        assert text.endswith(said)


def waiting(context: Context) -> list[float]:
    """Seconds of the default group, and of a mesh's before and after a module is made for it."""
    mesh = dist.init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    group = mesh.get_group("dp")
    before = timeout_of(group)
    model = Scores()
    completion = sharding.complete(model, batch(), mesh={"dp": 2, "tp": 2}, annotations=[sharding.batch("dp")])
    sharding.ShardedModule(model, completion, mesh)
    found = timeout_of(None), before, timeout_of(group)
    return [one.total_seconds() if one else 0.0 for one in found]


def test_groups_of_the_mesh_have_the_jobs_timeout(run: Runner) -> None:
    for of_job, before, after in run(waiting, world_size=4, deadline=120):
        assert before == 1800 != of_job
        assert after == of_job


def alone(context: Context) -> None:
    group = dist.new_group([1, 2], timeout=datetime.timedelta(seconds=1))
    if context.rank == 1:
        dist.all_reduce(torch.ones(3), group=group)


def test_errors_say_which_ranks_of_the_job_a_groups_are(run: Runner) -> None:
    with pytest.raises(RankError, match=r"in the job 0 is 1, 1 is 2"):
        run(alone, world_size=3, deadline=60)
