"""What is kept does not run again, takes the bytes that were counted, and changes no number."""

from __future__ import annotations

import gc
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from merak._torch_graphs import TorchDispatchMode
from merak.graph import CaptureError, prepare
from merak.graph.costs import DeviceModel, graph_costs, measure
from merak.graph.gradients import nodes_with_gradients
from merak.graph.keeping import kept_nodes
from merak.pipeline.microbatches import bind
from merak.pipeline.stage_runner import StageRunner
from tests.graph.running import Run, assert_same_gradients
from tests.graph.test_stages import Mixed, allowed, batch, prepared


class Deep(nn.Module):
    """Attention, dropout, a residual sum of what nothing saves."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.wide, self.narrow = nn.Linear(8, 32), nn.Linear(32, 8)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A loss."""
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + self.narrow(torch.nn.functional.gelu(self.wide(self.norm(x))))
        return x.square().mean()


class Kernels(TorchDispatchMode):
    """Counts what runs."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def runner(model: nn.Module, kept: tuple[str, ...], example: dict[str, Any]) -> tuple[StageRunner, Any]:
    made = prepare(model, example)
    names = {node.name for node in kept_nodes(made.cuttable.trunk, made.cuttable.groups, kept)}
    (stage,) = made.cuttable.cut([], [len(made.cuttable.trunk)], kept=names)
    tensors: dict[tuple[str, str], torch.Tensor] = {("parameter", name): one for name, one in model.named_parameters()}
    tensors |= {("constant", key): one for key, one in made.captured.constants.items()}
    part = bind(made.captured, example, 0)
    part.scales = [1.0] * len(made.terms.counts)
    return StageRunner(stage, tensors), part


@settings(deadline=None, max_examples=30)
@given(
    kept=st.sets(st.sampled_from(["aten.linear", "aten.dropout", "aten.embedding", "aten.matmul", "mix.1", "norm*"])),
    cuts=st.sets(st.integers(0, 30), max_size=2),
    share=st.floats(0, 1),
)
def test_numbers_are_those_of_a_run_that_keeps_all(kept: set[str], cuts: set[int], share: float) -> None:
    model, made, whole = prepared()
    boundaries = sorted({allowed()[cut % len(allowed())] for cut in cuts})
    sizes = [end - begin for begin, end in zip([0, *boundaries], [*boundaries, len(made.cuttable.trunk)], strict=True)]
    known = [name for name in sorted(kept) if _is_known(made, name)]
    names = {node.name for node in kept_nodes(made.cuttable.trunk, made.cuttable.groups, known)}
    again = [round(share * size) for size in sizes]
    run = Run(model, made, batch(), microbatches=3, boundaries=boundaries, recomputed=again, kept=names)
    assert run.losses == whole.losses
    assert_same_gradients(run.gradients, whole.gradients, 1e-6)


def _is_known(made: Any, name: str) -> bool:
    try:
        return bool(kept_nodes(made.cuttable.trunk, made.cuttable.groups, [name]))
    except CaptureError:
        return False


def test_kept_products_run_once() -> None:
    model, x = Deep(), torch.randn(2, 5, 8)
    counts = {}
    for kept in ((), ("aten.linear", "aten.scaled_dot_product_attention")):
        made, part = runner(model, kept, {"x": x})
        made.forward(0, part, {}, checkpointed=True, grad=True)
        with Kernels() as again:
            made.recompute(0)
        counts[bool(kept)] = again.counts
        made.backward(0, {name: torch.ones(()) for name in made.stage.outputs.values()})
    products = {"addmm", "mm", "bmm", "_scaled_dot_product_flash_attention_for_cpu"}
    assert sum(counts[False][name] for name in products) >= 4
    assert not sum(counts[True][name] for name in products)
    assert counts[True]["native_layer_norm"] == 1, "all else runs again"


@pytest.mark.parametrize("kept", [(), ("aten.linear",), ("*",)])
def test_bytes_between_forward_and_backward_are_those_counted(kept: tuple[str, ...]) -> None:
    model, x = Deep(), torch.randn(16, 50, 8)
    made, part = runner(model, kept, {"x": x})
    prepared_again = prepare(model, {"x": x})
    sizes = part.sizes
    nodes = kept_nodes(prepared_again.cuttable.trunk, prepared_again.cuttable.groups, kept)
    measured = measure(prepared_again.captured, sizes, kept=nodes)
    gradients = nodes_with_gradients(prepared_again.captured, None)
    costs = graph_costs(prepared_again.cuttable, measured, sizes, gradients, DeviceModel())
    before = _bytes_alive()
    made.forward(0, part, {}, checkpointed=True, grad=True)
    counted = sum(node.kept_bytes for node in costs.nodes)
    assert _bytes_alive() - before == pytest.approx(counted, abs=2000)  # the loss and other numbers
    assert bool(counted) == bool(kept)
    if kept == ("*",):
        assert counted >= sum(node.saved_bytes for node in costs.nodes) * 0.8


def _bytes_alive() -> int:
    gc.collect()
    tensors = [one for one in gc.get_objects() if type(one) is torch.Tensor and one.device.type == "cpu"]
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
    return sum(storages.values())


def test_names_that_name_nothing_are_refused() -> None:
    cuttable = prepared()[1].cuttable
    with pytest.raises(CaptureError, match=r"keep names 'aten.lstm'.*aten.linear"):
        kept_nodes(cuttable.trunk, cuttable.groups, ["aten.linear", "aten.lstm"])
    with pytest.raises(CaptureError, match="relu_"):
        kept_nodes(cuttable.trunk, cuttable.groups, ["aten.relu_"])  # changes its argument
    assert isinstance(prepared()[0], Mixed)
