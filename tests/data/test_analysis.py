"""Metrics of samples, beside sums said plainly; from each kind of data set, by processes, interrupted and gone on."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from merak import cli
from merak.data import MegatronDataset, MegatronWriter, MetricIndex, analyze
from merak.data.identity import identity_of

METRICS = ("sequence_length", "vocabulary_rarity", "compression_ratio")


def rows_of(seed: int, count: int = 137) -> list[list[int]]:
    numbers = random.Random(seed)
    return [[min(int(numbers.expovariate(0.1)), 99) for _ in range(numbers.randint(0, 30))] for _ in range(count)]


def slowly(rows: list[list[int]]) -> dict[str, list[float]]:
    counts = Counter(token for row in rows for token in row)
    total = sum(counts.values()) + max(counts) + 1 - len(counts)  # ids that do not occur count as one
    rarity = [sum(-math.log(counts[token] / total) for token in row) for row in rows]
    texts = [np.array(row, "<u2").tobytes() for row in rows]
    ratio = [len(zlib.compress(text)) / len(text) if text else 1.0 for text in texts]
    return {"sequence_length": [len(row) for row in rows], "vocabulary_rarity": rarity, "compression_ratio": ratio}


def as_kind(kind: str, rows: list[list[int]], folder: Path) -> Any:
    if kind == "hugging face":
        return datasets.Dataset.from_dict({"input_ids": rows, "label": [0] * len(rows)})
    if kind == "hugging face, shuffled":  # and back: with a table of indices
        places = np.random.default_rng(0).permutation(len(rows))
        shuffled = [rows[place] for place in places]
        return datasets.Dataset.from_dict({"input_ids": shuffled}).select(np.argsort(places))
    if kind == "mappings":
        return [{"input_ids": torch.tensor(row, dtype=torch.int64), "label": 0} for row in rows]
    if kind == "lists":
        return rows
    with MegatronWriter(folder / "tokens", np.uint16 if kind == "megatron" else np.int32) as writer:
        for row in rows:
            writer.add(row)
            writer.end_document()
    return MegatronDataset(folder / "tokens")


KINDS = ("hugging face", "hugging face, shuffled", "mappings", "lists", "megatron", "megatron, 32 bits")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [1, 2])
def test_metrics_are_those_of_plain_sums(kind: str, workers: int, tmp_path: Path) -> None:
    rows = rows_of(seed=workers)
    dataset = as_kind(kind, rows, tmp_path)
    index = analyze(dataset, METRICS, workers=workers, output=tmp_path / "index", part=20)
    assert index.names == list(METRICS)
    for name, expected in slowly(rows).items():
        values = MetricIndex.load(tmp_path / "index").values(name)
        assert values.dtype == np.float64
        np.testing.assert_allclose(values, expected, rtol=1e-12)
        assert index.summaries[name]["minimum"] == values.min()
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == sorted(
        ["index.json", *(f"{name}.npy" for name in METRICS)]
    )


def test_functions_of_the_user_and_of_tokens_may_be_anything(tmp_path: Path) -> None:
    samples = [{"text": "ab" * i, "ids": list(range(i))} for i in range(1, 20)]
    metrics = {"last": lambda sample: sample["ids"][-1], "length": "sequence_length", "zip": "compression_ratio"}
    index = analyze(samples, metrics, workers=2, output=tmp_path, tokens="ids", part=3)
    assert index.values("last").tolist() == list(range(19))
    assert index.values("length").tolist() == list(range(1, 20))
    text = b"ab" * 10
    assert index.values("zip")[9] == len(zlib.compress(text)) / len(text)
    again = analyze(samples, ["sequence_length"], output=tmp_path / "b", tokens=lambda sample: sample["ids"][:2])
    assert again.values("sequence_length").max() == 2


def test_an_analysis_that_was_interrupted_does_what_is_missing(tmp_path: Path) -> None:
    rows = rows_of(seed=5)
    asked: list[int] = []

    class Interrupted(list[list[int]]):
        _fingerprint = "is known without a look at the samples"
        fails_at: int | None = 60

        def __getitem__(self, sample: Any) -> Any:
            if sample == self.fails_at:
                raise OSError("the disk is gone")
            asked.append(sample)
            return super().__getitem__(sample)

    dataset = Interrupted(rows)
    with pytest.raises(OSError, match="the disk is gone"):
        analyze(dataset, METRICS, output=tmp_path, part=20)
    with pytest.raises(ValueError, match=r"has no index\.json"):
        MetricIndex.load(tmp_path)
    with pytest.raises(ValueError, match="parts of another analysis"):
        analyze(dataset, METRICS, output=tmp_path, part=10)
    dataset.fails_at, first = None, set(asked)
    asked.clear()
    index = analyze(dataset, METRICS, output=tmp_path, part=20)
    counted_again = Counter(asked)
    assert first == set(range(60))
    assert all(counted_again[sample] == 1 for sample in range(60))  # counted before, measured now
    assert all(counted_again[sample] == 2 for sample in range(60, 137))
    np.testing.assert_allclose(index.values("vocabulary_rarity"), slowly(rows)["vocabulary_rarity"])
    asked.clear()
    analyze(dataset, METRICS, output=tmp_path, part=20)
    assert not asked  # the index is there


def test_goes_on_after_kill_9(tmp_path: Path) -> None:
    program = f"""
import time
from merak.data import analyze
rows = {rows_of(seed=6)}
class Slow(list):
    def __getitem__(self, i):
        time.sleep(0.003)
        return super().__getitem__(i)
print("begins", flush=True)
analyze(Slow(rows), output={str(tmp_path)!r}, part=10)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        while len(list(tmp_path.glob("parts/*.npy"))) < 7:
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    index = analyze(as_list(rows_of(seed=6)), output=tmp_path, part=10)
    expected = slowly(rows_of(seed=6))
    np.testing.assert_allclose(index.values("vocabulary_rarity"), expected["vocabulary_rarity"])


def as_list(rows: list[list[int]]) -> list[list[int]]:
    """With the same name of a class as in the program above, by which an analysis is known."""
    return type("Slow", (list,), {})(rows)


def test_megatron_files_are_read_back_and_refused_when_damaged(tmp_path: Path) -> None:
    rows = rows_of(seed=2, count=12)
    prefix = tmp_path / "tokens"
    with MegatronWriter(prefix, np.uint16) as writer:
        for number, row in enumerate(rows):
            writer.add(row)
            if number % 3 == 2:
                writer.end_document()
    dataset = MegatronDataset(prefix)
    assert [row.tolist() for row in dataset] == rows
    assert dataset.documents.tolist() == [0, 3, 6, 9, 12]
    tokens, offsets = dataset.read(2, 5)
    assert tokens.tolist() == [token for row in rows[2:5] for token in row]
    assert offsets.tolist() == np.cumsum([0, *map(len, rows[2:5])]).tolist()
    with MegatronWriter(tmp_path / "again") as writer:
        writer.add_many(np.concatenate(rows).astype(np.int64), np.array([len(row) for row in rows]))
        with pytest.raises(ValueError, match="add up to 2"):
            writer.add_many(np.zeros(3, np.int64), np.array([1, 1]))
    assert [row.tolist() for row in MegatronDataset(tmp_path / "again")] == rows
    header = Path(f"{prefix}.idx").read_bytes()
    # as Megatron-LM writes it: magic, version, code of uint16, counts
    assert header[:34] == b"MMIDIDX\0\0" + b"\1" + b"\0" * 7 + b"\x08" + b"\x0c" + b"\0" * 7 + b"\5" + b"\0" * 7
    with pytest.raises(ValueError, match="do not fit into uint16"), MegatronWriter(tmp_path / "b") as writer:
        writer.add([70000])
    with pytest.raises(ValueError, match=r"b\.idx does not exist"):
        MegatronDataset(tmp_path / "b")
    for content, words in ((header[:50], "too few for 12"), (b"other" + header, "does not begin with MMIDIDX")):
        Path(f"{prefix}.idx").write_bytes(content)
        with pytest.raises(ValueError, match=words):
            MegatronDataset(prefix)
    Path(f"{prefix}.idx").write_bytes(header)
    Path(f"{prefix}.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="do not belong together"):
        MegatronDataset(prefix)


def test_other_data_is_told_apart(tmp_path: Path) -> None:
    rows = rows_of(seed=4)
    index = analyze(rows, ["sequence_length"], output=tmp_path)
    assert analyze([list(row) for row in rows], ["sequence_length"], output=tmp_path).samples == index.samples
    (tmp_path / "parts").mkdir()
    about = json.loads((tmp_path / "index.json").read_text())["analysis"]
    (tmp_path / "parts" / "analysis.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="parts of another analysis"):
        analyze(rows[::-1], ["sequence_length"], output=tmp_path)


def test_what_identifies_samples() -> None:
    class Thing:
        pass

    samples: list[Any] = [
        [1, 2],
        [1, 3],
        [1.0, 2.0],
        ["a", "b"],
        "ab",
        b"ab",
        None,
        {"input_ids": [1, 2]},
        {"input_ids": np.array([1, 2])[::1], "text": "a"},
        torch.tensor([1, 2], dtype=torch.int32),
        torch.tensor([1.0, 2.0], dtype=torch.bfloat16).unsqueeze(0),
        Thing(),
    ]
    found = [identity_of([sample]) for sample in samples]
    assert len(set(found)) == len(samples)
    assert identity_of([Thing()]) == found[-1]  # not by where it lies in memory
    assert identity_of([{"input_ids": [1, 2]}] * 100) != identity_of([{"input_ids": [1, 2]}] * 99)


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_input(workers: int, tmp_path: Path) -> None:
    rows = rows_of(seed=3)
    for dataset, metrics, words in (
        ([], METRICS, "data set is empty"),
        (rows, ["length"], "metric 'length' is not known"),
        (rows, [], "give a list of some of"),
        (rows, {"a/b": "sequence_length"}, "names a file"),
        (rows, {"m": lambda row: math.nan if row == rows[7] else 1.0}, "metric 'm' of sample 7 is not a number"),
        ([{"ids": [1]}], METRICS, "sample 0 has no 'input_ids', but ids"),
        ([[0.5]], METRICS, "of float64, not integers"),
        ([[-1]], METRICS, "token id -1 is none"),
        (datasets.Dataset.from_dict({"ids": rows}), METRICS, "no column 'input_ids', but ids"),
        (datasets.Dataset.from_dict({"input_ids": ["text"]}), METRICS, "should be lists of tokens"),
    ):
        with pytest.raises(ValueError, match=words):
            analyze(dataset, metrics, workers=workers, output=tmp_path / words[:9])
    with pytest.raises(ValueError, match="0 workers"):
        analyze(rows, workers=0, output=tmp_path / "d")
    with pytest.raises(ValueError, match="a list_iterator has no length"):
        analyze(iter(rows), output=tmp_path / "e")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(seed=9)
    as_kind("megatron", rows, tmp_path)
    datasets.Dataset.from_dict({"ids": rows}).save_to_disk(tmp_path / "saved")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"ids": row}) + "\n" for row in rows))
    for data in ("tokens", "saved", "rows.jsonl"):
        out = tmp_path / f"index of {data}"
        arguments = ["analyze", str(tmp_path / data), "--output", str(out), "--tokens", "ids", "--quiet"]
        assert cli.main(arguments) == 0
        assert "137 samples" in (printed := capsys.readouterr().out)
        assert "vocabulary_rarity" in printed
        np.testing.assert_allclose(MetricIndex.load(out).values("sequence_length"), [len(row) for row in rows])
    assert cli.main(["analyze", str(tmp_path / "nothing"), "--output", str(tmp_path / "o")]) == 1
    assert "is no prefix of .bin and .idx files" in capsys.readouterr().err
