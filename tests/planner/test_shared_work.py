"""A rank's share of a model's operations, beside the graph that an engine would really give it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from merak.graph.costs import measure
from merak.pipeline.microbatches import bind
from merak.planner.shared_work import SharedWorkload
from merak.planner.workload import Workload
from merak.sharding.parts import Place
from merak.sharding.width import Width

LENGTH, VOCABULARY = 12, 64
"""Even, so that nothing is padded."""


def text_model(kind: str) -> torch.nn.Module:
    import transformers

    sizes: dict[str, Any] = {"vocab_size": VOCABULARY, "use_cache": False}
    if kind == "gpt2":
        drops = {"attn_pdrop": 0, "resid_pdrop": 0, "embd_pdrop": 0}
        config = transformers.GPT2Config(n_layer=2, n_embd=64, n_head=4, n_positions=LENGTH, **drops, **sizes)
        return transformers.GPT2LMHeadModel(config)
    layers = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, **sizes}
    if kind == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**layers))
    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "dropout_rate": 0, **sizes}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, decoder_start_token_id=0))


def batch_of(rows: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(1, VOCABULARY, (rows, LENGTH), generator=torch.Generator().manual_seed(rows))
    return {"input_ids": ids, "labels": ids.clone()}


@pytest.fixture(scope="module", params=["gpt2", "llama", "t5"])
def workload(request: pytest.FixtureRequest) -> Workload:
    return Workload(text_model(request.param), batch_of(4))


def totals(shared: SharedWorkload, rows: int) -> tuple[float, float]:
    """FLOPs and saved bytes of a rank."""
    flops = saved = 0.0
    for node, share in shared.shares.items():
        work = shared.workload.work[node]
        flops += work.flops.at(rows) * share.work
        saved += sum(line.at(rows) * part for (line, _), part in zip(work.saved, share.saved, strict=True))
    return flops, saved


@pytest.mark.parametrize(("ranks", "sequence_parallel"), [(1, False), (2, False), (2, True), (4, True)])
def test_a_rank_has_the_work_of_its_own_graph(workload: Workload, ranks: int, sequence_parallel: bool) -> None:
    rows = 6  # others than those of the runs that lines are drawn through
    place = Place(0, ranks, "")
    prepared = workload.prepared
    if ranks > 1:
        width = Width(ranks, [], workload.trainable, place, sequence_parallel=sequence_parallel)
        prepared = width.divide(prepared, []).prepared
    measured = measure(prepared.captured, bind(prepared.captured, batch_of(rows), 0).sizes)
    flops, saved = totals(SharedWorkload(workload, ranks, sequence_parallel=sequence_parallel), rows)
    assert flops == pytest.approx(sum(measured.flops.values()), rel=1e-3)
    assert saved == pytest.approx(sum(measured.saved_bytes(node) for node in measured.saved), rel=0.05)


def test_parameters_are_divided_as_the_graph_has_them(workload: Workload) -> None:
    shared = SharedWorkload(workload, 2)
    lowered = Width(2, [], workload.trainable, Place(0, 2, "")).divide(workload.prepared, []).lowered
    assert lowered is not None
    for name, share in shared.parameters.items():
        divided = any(axes for pieces in lowered.layouts[name] for _, axes in pieces)
        assert share == (0.5 if divided else 1.0), name


def test_a_model_for_one_number_of_rows_is_refused() -> None:
    class OneSize(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": (self.linear(x) * torch.ones(3, 4)).mean()}

    with pytest.raises(ValueError, match="for batches of 3 rows only"):
        Workload(OneSize(), {"x": torch.ones(3, 4)})
