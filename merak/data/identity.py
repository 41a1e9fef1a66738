"""Which data an analysis was of, so that parts of one are not taken for parts of another.

Data sets of Hugging Face's have a fingerprint of what they were made by. Of others, the samples at some places, spread
evenly from the first to the last, are hashed: a change elsewhere is not seen, which hashing all of them would see at
the price of reading everything before anything is done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

LOOKS = 32


def identity_of(dataset: Any, looks: int = LOOKS) -> str:
    """A text that differs for other kinds and fingerprints of data, or other samples at the places looked at."""
    kind, fingerprint = type(dataset).__name__, getattr(dataset, "_fingerprint", None)
    if isinstance(fingerprint, str):
        return f"{kind} {fingerprint}"
    digest, count = hashlib.blake2b(digest_size=16), len(dataset)
    digest.update(f"{count} samples".encode())
    for place in sorted({count * look // looks for look in range(looks)} | {count - 1}):
        for piece in _pieces(dataset[place]):
            digest.update(len(piece).to_bytes(8, "little"))
            digest.update(piece)
    return f"{kind} {digest.hexdigest()}"


def _pieces(sample: Any) -> Iterator[bytes]:
    """What a sample is made of. Of objects that are neither numbers nor texts only the kind: their representation may
    be another in another process."""
    if isinstance(sample, Mapping):
        for key, value in sample.items():
            yield str(key).encode()
            yield from _pieces(value)
    elif isinstance(sample, list | tuple) and not all(isinstance(one, int | float) for one in sample):
        yield f"list of {len(sample)}".encode()
        for one in sample:
            yield from _pieces(one)
    elif isinstance(sample, torch.Tensor):
        # numpy has no bfloat16
        yield from _pieces((sample.double() if sample.is_floating_point() else sample).detach().cpu().numpy())
    elif isinstance(sample, np.ndarray | np.generic | list | tuple):
        array = np.ascontiguousarray(sample)
        yield f"{array.dtype} {array.shape}".encode()
        yield array.tobytes() if array.dtype.kind in "biufcSU" else type(sample).__name__.encode()
    elif isinstance(sample, str | int | float | bool | None):
        yield f"{type(sample).__name__} {sample}".encode()
    else:
        yield sample if isinstance(sample, bytes) else type(sample).__name__.encode()
