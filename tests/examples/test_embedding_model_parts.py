"""The parts of the embedding model example, each alone and without a process group."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from common.options import UsageError, command_line, parse
from common.world import World
from embedding_model.library import modules, python_texts
from embedding_model.model import EmbeddingModel, sampled_softmax
from embedding_model.negatives import LogUniform, Negatives
from embedding_model.optimizers import TABLE_RATES, Optimizers
from embedding_model.options import Options
from embedding_model.rows import RowCount
from embedding_model.streams import Streams, Window, join_shuffled
from embedding_model.words import END, UNKNOWN, Vocabulary, words
from torch import nn

from tests.structure.sources import ROOT

ALL = Negatives(torch.arange(50), torch.zeros(50))


def window(generator: torch.Generator | None = None, words: int = 50) -> Window:
    return Window(*torch.randint(words, (2, 3, 4), generator=generator))


def test_words_are_identifiers_numbers_and_single_marks() -> None:
    assert words("x_1 = -Foo(3.14)\n# don't") == [
        *["x_1", "=", "-", "Foo", "(", "3", ".", "14", ")", "#", "don", "'", "t"],
        END,
    ]


def test_ids_are_in_order_of_frequency_and_rare_words_are_unknown() -> None:
    texts = [["b", "a", "b", "rare"], ["b", "c", "a", "c", "once", "last"]]
    vocabulary = Vocabulary(texts, size=100)
    assert list(vocabulary.ids) == [UNKNOWN, "b", "a", "c"]  # 3, 3, 2 and 2 times
    assert vocabulary.types == 6
    assert vocabulary.encode(["c", "never", "b"]).tolist() == [3, 0, 1]


def test_the_vocabulary_has_the_size_asked_for() -> None:
    vocabulary = Vocabulary([["a"] * 3 + ["b"] * 2 + ["c"] * 2], size=2)
    assert list(vocabulary.ids) == [UNKNOWN, "a"]


def test_modules_are_sources_that_are_text_of_this_library(tmp_path: Path) -> None:
    for name in ("one.py", "package/two.py", "package/tests/three.py", "site-packages/four.py", "five.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}")
    (tmp_path / "latin.py").write_bytes(b"# \xe9")
    assert modules(tmp_path) == {"one": "# one.py", "package/two": "# package/two.py"}


def test_every_python_brings_the_text_along() -> None:
    texts = python_texts()
    assert {"argparse.py", "json/decoder.py", "lambda"} <= set(texts)
    assert sum(map(len, texts.values())) > 5e6


def test_streams_go_on_from_block_to_block_and_start_over() -> None:
    streams = Streams(torch.arange(23), count=2, block=3)  # 0 ... 10 and 11 ... 21
    assert [streams.window(step).inputs[1].tolist() for step in range(4)] == [
        [11, 12, 13],
        [14, 15, 16],
        [17, 18, 19],
        [20, 21, 11],
    ]
    assert streams.window(3).targets.tolist() == [[10, 0, 1], [21, 11, 12]]
    assert streams.blocks == 3


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_ranks_read_what_one_process_reads(size: int) -> None:
    streams = Streams(torch.arange(100), count=4, block=5)
    for step in range(7):
        whole = streams.window(step)
        parts = [whole.of(World(rank, size, "").share(4, "--streams")) for rank in range(size)]
        assert torch.equal(torch.cat([part.inputs for part in parts]), whole.inputs)
        assert torch.equal(torch.cat([part.targets for part in parts]), whole.targets)


def test_too_short_a_text_is_refused() -> None:
    with pytest.raises(UsageError, match="fewer --streams"):
        Streams(torch.arange(12), count=4, block=3)


def test_the_seed_orders_the_texts() -> None:
    texts = [torch.arange(place * 10, place * 10 + 3) for place in range(20)]
    joined = join_shuffled(texts, seed=1)
    assert torch.equal(joined.view(20, 3)[:, 0].sort().values, torch.arange(20) * 10)
    assert torch.equal(joined, join_shuffled(texts, seed=1))
    assert not torch.equal(joined, join_shuffled(texts, seed=2))


def test_negatives_are_different_ones_and_depend_on_the_seed_alone() -> None:
    sampler = LogUniform(classes=100, count=30)
    drawn = sampler.draw(7)
    assert len(drawn.classes.unique()) == 30
    assert torch.equal(drawn.classes, sampler.draw(7).classes)
    assert not torch.equal(drawn.classes, sampler.draw(8).classes)


def test_sums_over_negatives_are_unbiased() -> None:
    classes, draws = 40, 1500
    sampler = LogUniform(classes, count=8)
    values = torch.randn(classes, generator=torch.Generator().manual_seed(0)).exp().double()
    estimates = []
    for seed in range(draws):
        drawn = sampler.draw(seed)
        estimates.append(float((values[drawn.classes] / drawn.log_inclusion.double().exp()).sum()))
    mean, error = torch.tensor(estimates).mean(), torch.tensor(estimates).std() / math.sqrt(draws)
    assert abs(mean - values.sum()) < 4 * error
    assert error < 0.02 * values.sum()


def test_of_all_classes_all_are_certain() -> None:
    drawn = LogUniform(classes=50, count=50).draw(1)
    assert torch.equal(drawn.classes, ALL.classes)
    assert torch.equal(drawn.log_inclusion, ALL.log_inclusion)


def test_more_negatives_than_words_are_refused() -> None:
    with pytest.raises(UsageError, match="only 50 words"):
        LogUniform(classes=50, count=51)


def test_with_all_classes_sampled_softmax_is_softmax() -> None:
    torch.manual_seed(3)
    model = EmbeddingModel(vocabulary=50, width=6, hidden=5, sparse=False).double()
    words = window()
    gradients = []
    for loss in (model(words, ALL, None)[0], model.full_loss(words, None, model.class_table())[0]):
        model.zero_grad()
        loss.backward()
        gradients.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    for sampled, full in zip(*gradients, strict=True):
        torch.testing.assert_close(sampled, full)


def test_sampled_softmax_is_its_formula() -> None:
    torch.manual_seed(4)
    classes = nn.Embedding(50, 3).double()
    contexts, targets = torch.randn(20, 3).double(), torch.randint(10, (20,))
    negatives = LogUniform(50, 12).draw(0)
    assert len(set(targets.tolist()) & set(negatives.classes.tolist())) > 2  # accidental hits
    losses = []
    for context, target in zip(contexts, targets.tolist(), strict=True):
        score = float(context @ classes.weight[target].detach())
        total = math.exp(score)
        for drawn, log_inclusion in zip(negatives.classes.tolist(), negatives.log_inclusion.tolist(), strict=True):
            if drawn != target:
                total += math.exp(float(context @ classes.weight[drawn].detach()) - log_inclusion)
        losses.append(math.log(total) - score)
    assert float(sampled_softmax(contexts, targets, negatives, classes).detach()) == pytest.approx(sum(losses) / 20)


def test_gradients_have_the_rows_of_the_batch() -> None:
    model = EmbeddingModel(vocabulary=50, width=6, hidden=5, sparse=True)
    words, negatives = window(), LogUniform(50, 7).draw(0)
    model(words, negatives, None)[0].backward()
    rows = [set(table.grad.coalesce().indices()[0].tolist()) for table in model.tables() if table.grad is not None]
    assert rows == [
        set(words.inputs.flatten().tolist()),
        set(words.targets.flatten().tolist()) | set(negatives.classes.tolist()),
    ]


@torch.no_grad()
def test_the_state_carries_on() -> None:
    torch.manual_seed(5)
    model = EmbeddingModel(vocabulary=50, width=6, hidden=5, sparse=True)
    words = window()
    whole, _ = model.full_loss(words, None, model.class_table())
    first, state = model.full_loss(Window(words.inputs[:, :2], words.targets[:, :2]), None, model.class_table())
    second, _ = model.full_loss(Window(words.inputs[:, 2:], words.targets[:, 2:]), state, model.class_table())
    assert float(whole) == pytest.approx(float(first + second) / 2)


@pytest.mark.parametrize("optimizer", ["adagrad", "sgd"])
def test_sparse_and_dense_gradients_teach_the_same(optimizer: str) -> None:
    torch.sparse.check_sparse_tensor_invariants.disable()
    options = Options(table_optimizer=optimizer, steps=5)
    trained = []
    for sparse in (True, False):
        torch.manual_seed(6)
        model = EmbeddingModel(vocabulary=50, width=6, hidden=5, sparse=sparse)
        optimizers, generator = Optimizers(model, options), torch.Generator().manual_seed(7)
        for step in range(5):
            optimizers.zero_grad()
            model(window(generator), LogUniform(50, 7).draw(step), None)[0].backward()
            optimizers.step()
        trained.append([parameter.detach() for parameter in model.parameters()])
    for of_sparse, of_dense in zip(*trained, strict=True):
        torch.testing.assert_close(of_sparse, of_dense)


@pytest.mark.parametrize("optimizer", TABLE_RATES)
def test_every_optimizer_learns_a_batch_by_heart(optimizer: str) -> None:
    torch.sparse.check_sparse_tensor_invariants.disable()
    torch.manual_seed(9)
    model = EmbeddingModel(vocabulary=50, width=16, hidden=16, sparse=True)
    optimizers, words = Optimizers(model, Options(table_optimizer=optimizer, learning_rate=0.02, steps=60)), window()
    losses = []
    for _ in range(60):
        optimizers.zero_grad()
        loss, _ = model(words, ALL, None)
        loss.backward()
        optimizers.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_rows_are_counted_from_the_words() -> None:
    count = RowCount(width=2, streams=4, world=World(0, 2, ""))
    inputs = torch.tensor([[1, 1], [2, 1], [1, 3], [3, 3]])
    count.add(Window(inputs, inputs + 10), Negatives(torch.tensor([11, 20]), torch.zeros(2)))
    assert count.report() == {"embedding": {"rank": 2, "union": 3}, "classes": {"rank": 3, "union": 4}}
    assert count.all_gather_bytes() == 4 * (2 * 4 + 8) + 6 * (3 * 4 + 8)  # to one other rank


@torch.no_grad()
def test_a_fresh_model_finds_all_words_about_as_likely() -> None:
    torch.manual_seed(8)
    model = EmbeddingModel(vocabulary=300, width=16, hidden=16, sparse=True)
    loss, _ = model.full_loss(window(words=300), None, model.class_table())
    assert float(loss) == pytest.approx(math.log(300), abs=0.1)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--negatives", "0"], "--negatives is 0"),
        (["--learning-rate", "0"], "above 0"),
        (["--reduce", "dense", "--table-optimizer", "sparse-adam"], "choose --table-optimizer adagrad or sgd"),
    ],
)
def test_senseless_options_are_refused(arguments: list[str], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        parse("", Options, arguments)


def test_the_page_names_every_option_with_its_default() -> None:
    rows = (ROOT / "docs" / "sparse.md").read_text().splitlines()
    for action in command_line("", Options)._actions:
        if action.dest != "help":
            flag = action.option_strings[0]
            assert any(row.startswith(f"| `{flag}` | {action.default} |") for row in rows), f"{flag} | {action.default}"
