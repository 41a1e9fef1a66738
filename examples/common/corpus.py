"""The text: what Python brings along, cut into texts to train on and texts held out.

Python's texts quote each other at length (the topic `try` stands whole inside `compound`), so each paragraph is kept
where it first appears and dropped afterwards. Otherwise the validation loss would measure sentences that the model was
trained on.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass

from .options import UsageError


@dataclass(frozen=True)
class Corpus:
    """Texts to train on and texts held out, no paragraph of which is the same."""

    train: list[str]
    validation: list[str]


def python_reference() -> Mapping[str, str]:
    """CPython's language reference, which every Python carries as `pydoc_data.topics`: texts by topic.

    Raises:
        UsageError: this Python was packaged without `pydoc_data`.
    """
    try:
        topics: Mapping[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ModuleNotFoundError as error:
        raise UsageError("This Python lacks the module pydoc_data; install its full standard library.") from error
    return topics


def load_corpus(texts: Mapping[str, str], holdout: int) -> Corpus:
    """The texts in the order of their names, without repeats; every `holdout`-th is held out."""
    return split(drop_repeats(texts), holdout)


def drop_repeats(texts: Mapping[str, str]) -> list[str]:
    """The texts by name, without the paragraphs (compared up to white space) that stand in an earlier one."""
    seen: set[str] = set()
    kept = []
    for name in sorted(texts):
        fresh = []
        for paragraph in texts[name].split("\n\n"):
            key = " ".join(paragraph.split())
            if key and key not in seen:
                seen.add(key)
                fresh.append(paragraph)
        kept.append("\n\n".join(fresh))
    return [text for text in kept if text]


def split(texts: list[str], holdout: int) -> Corpus:
    """Holds out the texts at places holdout, 2 holdout, ... (counted from 1)."""
    return Corpus(
        train=[text for place, text in enumerate(texts, start=1) if place % holdout],
        validation=texts[holdout - 1 :: holdout],
    )
