"""`ShardedModule`: a model that is called as before, with parts of its parameters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from merak import sharding
from tests.backend.harness import Context
from tests.engine import zoo

Runner = Callable[..., list[Any]]
MESH = {"dp": 2, "tp": 2}


def made(name: str) -> tuple[torch.nn.Module, sharding.ShardedModule]:
    model = zoo.make(name)
    completion = sharding.complete(
        model, zoo.batch_of(name, 2, 0), mesh=MESH, annotations=[sharding.batch("dp"), sharding.megatron("tp")]
    )
    mesh = dist.init_device_mesh("cpu", tuple(MESH.values()), mesh_dim_names=tuple(MESH))
    return model, sharding.ShardedModule(model, completion, mesh)


def training(context: Context) -> list[float]:
    """Losses of a few steps of the plain model, and of the divided one."""
    model, divided = made("gpt2")
    losses = []
    for one in (model, divided):
        optimizer = torch.optim.AdamW(one.parameters(), 1e-2, eps=1e-4)
        for step in range(4):
            loss = one(**zoo.batch_of("gpt2", 4, step))["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss))
    return losses


def test_training_has_the_losses_of_one_process(run: Runner) -> None:
    for losses in run(training, world_size=4, deadline=120):
        assert losses[4:] == pytest.approx(losses[:4], rel=1e-5)


def outputs_and_state(context: Context) -> list[str]:
    """What differs from the plain model."""
    model, divided = made("gpt2")
    batch = zoo.batch_of("gpt2", 4, 1)
    wrong = []
    if not torch.allclose(divided(**batch)["logits"], model(**batch).logits, atol=1e-5):
        wrong.append("logits")
    state = divided.state_dict()
    plain = dict(model.named_parameters())
    if state.keys() != model.state_dict().keys():
        wrong.append(f"names {sorted(state.keys() ^ model.state_dict().keys())}")
    for name, parameter in plain.items():
        if not torch.equal(state[name].full_tensor(), parameter):
            wrong.append(f"state of {name}")
        if not torch.equal(divided.whole(name), parameter):
            wrong.append(name)
    if (numel := sum(one.numel() for one in divided.parameters())) > 0.75 * sum(one.numel() for one in plain.values()):
        wrong.append(f"{numel} numbers are kept")
    for kind, saved in (("DTensors", state), ("the plain model's", model.state_dict())):
        kept = {name: value.clone() for name, value in saved.items()}
        with torch.no_grad():
            for parameter in divided.parameters():
                parameter.zero_()
        divided.load_state_dict(kept)
        wrong += [f"{name}, loaded from {kind}" for name in plain if not torch.equal(divided.whole(name), plain[name])]
    return wrong


def test_outputs_are_whole_and_the_state_dict_is_the_models(run: Runner) -> None:
    for wrong in run(outputs_and_state, world_size=4, deadline=120):
        assert not wrong


def when_compiled(
    divided: sharding.ShardedModule, batch: dict[str, torch.Tensor]
) -> tuple[list[torch.Tensor | None], list[str]]:
    """Gradients, and what differs when torch.compile traces the graph, with its backward; and where it could not."""
    found = []
    for is_compiled in (False, True):
        if is_compiled:
            torch._dynamo.utils.counters.clear()
            divided.compile_graph(backend="aot_eager")
        divided.zero_grad()
        loss = divided.loss(**batch)
        loss.backward()
        found.append(
            (float(loss), [one.grad if one.grad is None else one.grad.clone() for one in divided.parameters()])
        )
    wrong = [str(reason) for reason in torch._dynamo.utils.counters["graph_break"]]
    (loss_, gradients), (again, same) = found
    pairs = zip(gradients, same, strict=True)
    if loss_ != again or not all(torch.equal(one, two) if one is not None else two is None for one, two in pairs):
        wrong.append(f"numbers: {loss_}, {again}")
    return gradients, wrong


def compiled(context: Context) -> list[str]:
    """What is wrong with a language model's graph."""
    _, divided = made("gpt2")
    return when_compiled(divided, zoo.batch_of("gpt2", 4, 1))[1]


def test_the_graph_can_be_compiled_whole(run: Runner) -> None:
    for wrong in run(compiled, world_size=4, deadline=240):
        assert not wrong


def bad_calls(context: Context) -> list[str]:
    """What is said of batches that do not fit, and of another mesh."""
    model, divided = made("gpt2")
    batch = zoo.batch_of("gpt2", 4, 1)
    said = []
    for bad in ({"input_ids": batch["input_ids"]}, batch | {"labels": batch["labels"].float()}, batch | {"more": 1}):
        try:
            divided(**bad)
        except ValueError as error:
            said.append(str(error))
    other = dist.init_device_mesh("cpu", (4, 1), mesh_dim_names=("dp", "tp"))
    try:
        sharding.ShardedModule(
            model, sharding.complete(model, zoo.batch_of("gpt2", 2, 0), mesh=MESH, annotations=[]), other
        )
    except ValueError as error:
        said.append(str(error))
    return said


def test_batches_and_meshes_that_do_not_fit(run: Runner) -> None:
    for said in run(bad_calls, world_size=4, deadline=120):
        for text, part in zip(said, ("is missing", "int64", "was not in the example", "a mesh"), strict=True):
            assert part in text


class Small(torch.nn.Module):
    """A packed projection (two parts of one weight), dropout, a tied head."""

    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(12, 8)
        self.packed = torch.nn.Linear(8, 2 * 16)
        self.down = torch.nn.Linear(16, 8)
        self.dropout = torch.nn.Dropout(dropout)
        self.head = torch.nn.Linear(8, 12, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.words(ids)
        gate, up = self.packed(hidden).chunk(2, dim=-1)
        logits = self.head(hidden + self.dropout(self.down(gate.sigmoid() * up)))
        return {"loss": logits.square().mean(), "logits": logits}


def small(
    seed: int = 0, dropout: float = 0.5, training: bool = True, tactics: tuple[Any, ...] = ()
) -> tuple[torch.nn.Module, sharding.ShardedModule, dict[str, torch.Tensor]]:
    torch.manual_seed(seed)
    model, batch = Small(dropout), {"ids": torch.arange(12).reshape(4, 3)}
    annotations = tactics or (sharding.batch("dp"), sharding.megatron("tp"))
    completion = sharding.complete(model, batch, mesh=MESH, annotations=annotations, training=training)
    mesh = dist.init_device_mesh("cpu", tuple(MESH.values()), mesh_dim_names=tuple(MESH))
    return model, sharding.ShardedModule(model, completion, mesh), batch


def raised(call: Callable[[], object]) -> str:
    try:
        call()
    except ValueError as error:
        return str(error)
    return "nothing"


def modes(context: Context) -> list[Any]:
    """Two calls in training, one of the first's step, and what evaluation says; then a module of evaluation."""
    model, divided, batch = small()
    first, second = (divided(**batch)["logits"].detach() for _ in range(2))
    assert divided.step == 2
    divided.step = 0
    again = divided(**batch)["logits"].detach()
    evaluation = small(training=False)[1]
    evaluation.load_state_dict(divided.state_dict())
    found = evaluation(**batch)["logits"].detach()
    expected = model.eval()(**batch)["logits"].detach()
    return [
        torch.equal(first, again),
        torch.equal(first, second),
        evaluation.training or evaluation.step > 0,
        torch.allclose(found, expected, atol=1e-6),
        raised(divided.eval),
        raised(evaluation.train),
    ]


def test_each_call_in_training_draws_anew_and_evaluation_is_its_own_graph(run: Runner) -> None:
    for same, other, trains, is_whole, of_training, of_evaluation in run(modes, world_size=4, deadline=120):
        assert same
        assert not other
        assert not trains
        assert is_whole
        assert "captured in training" in of_training
        assert "training=False" in of_training
        assert "captured in evaluation" in of_evaluation


def without_dropout(context: Context) -> bool:
    """Nothing depends on the mode."""
    divided = small(dropout=0.0)[1]
    return divided.eval().training


def test_where_nothing_depends_on_it_the_mode_may_change(run: Runner) -> None:
    assert run(without_dropout, world_size=4, deadline=120) == [False] * 4


def to_dcp_and_back(context: Context, folder: str) -> list[str]:
    """What torch's checkpoints change, into the plain model and into a module that is divided in another way."""
    from torch.distributed.checkpoint.state_dict_loader import load
    from torch.distributed.checkpoint.state_dict_saver import save

    model, divided, _ = small()
    strided = [name for name, one in divided.state_dict().items() if "_S" in repr(one.placements)]
    save(divided.state_dict(), checkpoint_id=folder)
    plain = {name: torch.zeros_like(one) for name, one in model.state_dict().items()}
    load(plain, checkpoint_id=folder)
    wrong = [name for name, one in model.state_dict().items() if not torch.equal(plain[name], one)]
    for tactics in ((sharding.megatron("tp"),), (sharding.batch("dp"), sharding.zero("dp"), sharding.megatron("tp"))):
        other = small(seed=1, tactics=tactics)[1]
        state = other.state_dict()
        load(state, checkpoint_id=folder)
        other.load_state_dict(state)
        wrong += [
            f"{name} again" for name, one in model.state_dict().items() if not torch.equal(other.whole(name), one)
        ]
    return wrong if strided else ["nothing is strided"]


def test_torchs_checkpoints_hold_packed_parameters(run: Runner, tmp_path: Path) -> None:
    for wrong in run(to_dcp_and_back, str(tmp_path / "checkpoint"), world_size=4, deadline=120):
        assert not wrong


def different_on_ranks(context: Context) -> list[str]:
    """What is said where ranks have other models, seeds, batches and names."""
    rank = dist.get_rank()
    said = [raised(lambda: small(seed=rank % 2))]
    model, divided, batch = small()
    said.append(raised(lambda: divided(ids=batch["ids"] + (rank == 3))))
    said.append(raised(lambda: sharding.ShardedModule(torch.nn.Linear(8, 8), *_completed(model, batch))))
    said += [raised(lambda: divided.whole("head.wieght")), raised(lambda: divided.whole_gradient("none"))]
    assert torch.equal(divided.whole("head.weight"), model.state_dict()["head.weight"])
    return said


def _completed(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> tuple[Any, Any]:
    completion = sharding.complete(model, batch, mesh=MESH, annotations=[sharding.batch("dp")])
    return completion, dist.init_device_mesh("cpu", tuple(MESH.values()), mesh_dim_names=tuple(MESH))


def test_what_differs_between_ranks_is_refused_by_all(run: Runner) -> None:
    for models, batches, another, name, gradient in run(different_on_ranks, world_size=4, deadline=120):
        assert "the model, its sharding or the seed are not the same on all ranks of the mesh" in models
        assert "The first that differ: words.weight, (12, 8) of torch.float32, with bits" in models
        assert "batches are not the same on all ranks" in batches
        assert "sharding is of another model, with words.weight [12, 8] (the model has none)" in another
        assert "did you mean 'head.weight'" in name
        assert gradient == "the model has no parameter or buffer 'none'"


def clipped(context: Context) -> list[float]:
    """The norm, and what gradients differ by from those that torch has clipped."""
    model, divided, batch = small(dropout=0.0)
    model(**batch)["loss"].backward()
    divided(**batch)["loss"].backward()
    norms = [float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)), float(divided.clip_grad_norm_(1e-3))]
    differences = [
        float((divided.whole_gradient(name) - parameter.grad).norm() / parameter.grad.norm())
        for name, parameter in model.named_parameters()
    ]
    return [*norms, max(differences)]


def test_gradients_are_clipped_by_the_norm_of_the_whole(run: Runner) -> None:
    for theirs, ours, difference in run(clipped, world_size=4, deadline=120):
        assert theirs > 2e-3  # so that there is something to clip
        assert ours == pytest.approx(theirs, rel=1e-5)
        assert difference < 1e-5
