"""The parts of the language model example, each alone and without a process group."""

from __future__ import annotations

import math
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from common.corpus import drop_repeats, load_corpus, python_reference, split
from common.history import History
from common.options import UsageError, command_line, parse
from common.progress import readable
from common.seeds import mix
from common.world import World
from language_model.checkpoint import Checkpoints
from language_model.data import IGNORED, DataOrder, validation_batches
from language_model.engine import learning_rate, without_ties
from language_model.options import Options
from language_model.tokens import END_OF_TEXT, read_tokenizer, sequences, train_tokenizer

from tests.structure.sources import ROOT


def test_a_paragraph_stays_where_it_first_appears() -> None:
    topics = {"b": "one\n\ntwo", "a": "two\n\nthree", "c": "two\n\n  one "}
    assert drop_repeats(topics) == ["two\n\nthree", "one"]


def test_every_third_text_is_held_out() -> None:
    corpus = split(list("abcdefg"), 3)
    assert (corpus.train, corpus.validation) == (["a", "b", "d", "e", "g"], ["c", "f"])


def test_no_held_out_paragraph_is_trained_on() -> None:
    corpus = load_corpus(python_reference(), holdout=8)
    train, held = ({p for text in texts for p in text.split("\n\n")} for texts in (corpus.train, corpus.validation))
    assert train.isdisjoint(held)
    # How much it is depends on the version of Python, whose text it is: 19,700 characters or more in 3.11.
    assert sum(map(len, corpus.validation)) > 0.05 * sum(map(len, corpus.train))


def test_the_tokenizer_is_the_same_each_time_and_loses_nothing() -> None:
    texts = load_corpus(python_reference(), holdout=8).train
    json = train_tokenizer(texts, 300)
    assert json == train_tokenizer(texts, 300)
    tokenizer = read_tokenizer(json)
    unseen = "Ünïcode, tabs\tand 漢字 \N{SNAKE}\n"
    assert tokenizer.decode(tokenizer.encode(unseen).ids) == unseen
    assert (tokenizer.get_vocab_size(), tokenizer.token_to_id(END_OF_TEXT)) == (300, 0)


def test_sequences_are_full_rows_of_the_stream() -> None:
    tokenizer = read_tokenizer(train_tokenizer(["abc"], 257))
    rows = sequences(tokenizer, ["abc", "de"], 3)
    a = tokenizer.token_to_id("a") or 0
    assert rows.tolist() == [[a, a + 1, a + 2], [0, a + 3, a + 4]]
    with pytest.raises(UsageError, match="choose a smaller --block"):
        sequences(tokenizer, ["abc"], 5)


def test_each_epoch_visits_every_row_once_across_batches() -> None:
    order = DataOrder(rows=7, seed=1)
    taken = torch.cat([order.take(4) for _ in range(7)])
    epochs = taken.view(4, 7).tolist()
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert all(before != after for before, after in pairwise(epochs))


def test_the_order_goes_on_where_it_was_saved() -> None:
    order, other = DataOrder(rows=7, seed=1), DataOrder(rows=7, seed=2)
    order.take(10)
    for name, tensor in order.state().items():
        other.state()[name].copy_(tensor)
    assert other.take(4).tolist() == order.take(4).tolist()  # the rest of the second epoch


def test_seeds_differ() -> None:
    seeds = {mix(seed, step, rank) for seed in range(10) for step in range(100) for rank in range(10)}
    assert len(seeds) == 10 * 100 * 10
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_slices_are_the_batch(size: int) -> None:
    places = torch.arange(8)
    assert torch.equal(torch.cat([places[World(rank, size, "").share(8, "--batch")] for rank in range(size)]), places)


@pytest.mark.parametrize(("batch", "size", "fits"), [(8, 3, "6 or 9"), (2, 3, "3"), (4, 3, "3 or 6")])
def test_an_uneven_slice_is_refused(batch: int, size: int, fits: str) -> None:
    with pytest.raises(UsageError, match=f"choose {fits}"):
        World(0, size, "").share(batch, "--batch")


def test_validation_visits_every_row_once_and_ignores_the_padding() -> None:
    rows = torch.arange(5 * 3).view(5, 3)
    seen, targets = [], 0
    for rank in range(2):
        for batch, count in validation_batches(rows, 4, World(rank, 2, "").share(4, "--batch")):
            assert batch["input_ids"].shape == batch["labels"].shape == (2, 3)
            seen += [labels for labels in batch["labels"].tolist() if labels != [IGNORED] * 3]
            targets += count if rank == 0 else 0
    assert sorted(seen) == rows.tolist()
    assert targets == 5 * 2


def test_the_learning_rate_rises_and_falls() -> None:
    options = Options(steps=100, warmup=10, learning_rate=1.0)
    rates = [learning_rate(step, options) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert all(before > after for before, after in pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.1, abs=0.01)


def test_a_tied_weight_is_saved_once() -> None:
    weight = torch.ones(3)
    assert list(without_ties({"embedding": weight, "bias": torch.ones(2), "output": weight})) == ["embedding", "bias"]


class Elsewhere(World):
    """Rank 1 on a host that does not share rank 0's file system."""

    def barrier(self) -> None:
        """Rank 0 has made its folder."""


def test_a_folder_that_is_not_shared_is_noticed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, {}, 1, Elsewhere(rank=1, size=2, backend="merak"))
    for access in (checkpoints.save, checkpoints.load):
        with pytest.raises(FileNotFoundError, match=r"Rank 1 does not see .*step-000007.* must be a shared folder"):
            access(7, {})


def test_history_knows_what_was_measured() -> None:
    history = History(steps=3)
    history.add_validation(0, 2.5)
    history.add_train(2, 1.5)
    assert (history.train(), history.validation()) == ([(2, 1.5)], [(0, 2.5)])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--dropout", "1"], "--dropout is 1.0"),
        (["--vocabulary", "256"], "--vocabulary is 256; it must be at least 257"),
        (["--global-batch", "0"], "--global-batch is 0"),
        (["--width", "30"], "--width 30 is not a multiple of --heads 4"),
        (["--learning-rate", "0"], "above 0"),
    ],
)
def test_senseless_options_are_refused(arguments: list[str], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        parse("", Options, arguments)


def test_the_page_names_every_option_with_its_default() -> None:
    rows = (ROOT / "docs" / "training.md").read_text().splitlines()
    for action in command_line("", Options)._actions:
        if action.dest != "help":
            flag, default = action.option_strings[0], "off" if action.default is False else action.default
            assert any(row.startswith(f"| `{flag}` | {default} |") for row in rows), f"{flag} | {default}"


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from train_language_model import main

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([]) == 2
    assert "pip install --no-build-isolation '.[viz]'" in capsys.readouterr().err


def test_bytes_are_readable() -> None:
    assert [readable(n) for n in (None, 0, 999, 45_158_400, 2**40)] == ["n/a", "0 B", "999 B", "45.16 MB", "1100 GB"]


def test_the_losses_are_drawn(tmp_path: Path) -> None:
    from common.report import draw_losses

    history = History(steps=2)
    history.add_validation(0, math.log(300))
    history.add_train(1, 5.0)
    draw_losses(tmp_path / "loss.png", history, 300, "two steps")
    assert (tmp_path / "loss.png").stat().st_size > 1000
