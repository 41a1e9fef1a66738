"""`ShardedModule`: a model that is called as before, with parts of its parameters."""

from __future__ import annotations

from collections.abc import Callable
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
