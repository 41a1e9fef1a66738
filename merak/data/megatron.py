"""Megatron-LM's token files, `<prefix>.bin` and `<prefix>.idx`, read and written.

The .bin file is the tokens of all *sequences*, one after the other. The .idx file, little-endian:

    9 bytes     "MMIDIDX", 0, 0
    uint64      version, 1
    uint8       the tokens' type: 1 uint8, 2 int8, 3 int16, 4 int32, 5 int64, 8 uint16 (6 and 7, floats, are none)
    uint64      n, the number of sequences
    uint64      d, the number of documents and one
    int32[n]    tokens of each sequence
    int64[n]    where it begins in the .bin file, in bytes
    int64[d]    the first sequence of each document, and n

(megatron/core/datasets/indexed_dataset.py.)
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_TYPES: dict[int, str] = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}

Tokens = npt.NDArray[Any]
Offsets = npt.NDArray[np.int64]


class MegatronDataset:
    """Sequences of tokens; `dataset[i]` is a numpy array, read from the file when it is asked for.

    Attributes:
        dtype: of the tokens.
        lengths: tokens of each sequence.
        documents: the first sequence of each document, and the number of sequences.

    Raises:
        ValueError: the files are not what they should be, or do not belong together.
    """

    def __init__(self, prefix: str | Path) -> None:
        index, self._file = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
        for path in (index, self._file):
            if not path.exists():
                raise ValueError(f"{path} does not exist: the prefix of a .bin and an .idx file is needed")
        with index.open("rb") as stream:
            header = stream.read(_HEADER.size)
            if len(header) < _HEADER.size or not header.startswith(_MAGIC):
                raise ValueError(f"{index} is no index of Megatron's: it does not begin with MMIDIDX")
            _, version, code, sequences, documents = _HEADER.unpack(header)
            if version != 1 or code not in _TYPES:
                raise ValueError(f"{index} has version {version}, type {code}: version 1 and integers are known")
            size = index.stat().st_size
            if size < _HEADER.size + 12 * sequences + 8 * documents:
                raise ValueError(f"{index} has {size} bytes, too few for {sequences} sequences: it was cut off")
            self.lengths = np.fromfile(stream, "<i4", sequences)
            self._begins = np.fromfile(stream, "<i8", sequences)
            self.documents = np.fromfile(stream, "<i8", documents)
        self.dtype = np.dtype(_TYPES[code])
        ends = self._begins + self.lengths.astype(np.int64) * self.dtype.itemsize
        if sequences and (self.lengths.min() < 0 or self._begins.min() < 0 or ends.max() > self._file.stat().st_size):
            raise ValueError(f"{index} points outside of {self._file.name}: they do not belong together")
        self._one_after_other = bool((self._begins[1:] == ends[:-1]).all())

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, sequence: int) -> Tokens:
        if not -len(self) <= sequence < len(self):
            raise IndexError(f"sequence {sequence} of {len(self)} does not exist")
        count = int(self.lengths[sequence])
        return np.fromfile(self._file, self.dtype, count, offset=int(self._begins[sequence]))

    def read(self, begin: int, end: int) -> tuple[Tokens, Offsets]:
        """The tokens of sequences `begin` to `end`, together, and where each begins among them, and the last ends."""
        offsets = np.zeros(end - begin + 1, np.int64)
        np.cumsum(self.lengths[begin:end], out=offsets[1:])
        if self._one_after_other and end > begin:
            return np.fromfile(self._file, self.dtype, int(offsets[-1]), offset=int(self._begins[begin])), offsets
        rows = [self[sequence] for sequence in range(begin, end)]
        return np.concatenate([np.empty(0, self.dtype), *rows]), offsets


class MegatronWriter:
    """Writes both files; the index when it is closed.

    with MegatronWriter("corpus", np.uint16) as writer:
        for document in documents:
            writer.add(document)  # a sequence
            writer.end_document()
    """

    def __init__(self, prefix: str | Path, dtype: npt.DTypeLike = np.uint16) -> None:
        self.dtype = np.dtype(dtype).newbyteorder("<")
        codes = {np.dtype(name): code for code, name in _TYPES.items()}
        if self.dtype not in codes:
            raise ValueError(f"tokens of {self.dtype} cannot be written: use {', '.join(map(str, codes))}")
        self._code = codes[self.dtype]
        self._index = Path(f"{prefix}.idx")
        self._tokens = Path(f"{prefix}.bin").open("wb")  # noqa: SIM115 - closed by close()
        self._lengths: list[int] = []
        self._documents = [0]

    def add(self, tokens: Sequence[int] | Tokens) -> None:
        """One sequence. Raises ValueError for ids that the type cannot hold."""
        given = np.asarray(tokens)
        if given.size and (given.min() < np.iinfo(self.dtype).min or given.max() > np.iinfo(self.dtype).max):
            raise ValueError(f"token ids from {given.min()} to {given.max()} do not fit into {self.dtype}")
        self._tokens.write(given.astype(self.dtype).tobytes())
        self._lengths.append(given.size)

    def add_many(self, tokens: Tokens, lengths: npt.NDArray[np.integer[Any]]) -> None:
        """Sequences that lie one after the other. Raises as above."""
        if int(lengths.sum()) != tokens.size:
            raise ValueError(f"{tokens.size} tokens are given, the lengths add up to {int(lengths.sum())}")
        self.add(tokens)
        self._lengths[-1:] = lengths.tolist()

    def end_document(self) -> None:
        """What was added since the last one is a document."""
        self._documents.append(len(self._lengths))

    def close(self) -> None:
        """Writes the index."""
        self._tokens.close()
        lengths = np.array(self._lengths, "<i4")
        ends = np.cumsum(lengths, dtype="<i8") * self.dtype.itemsize
        begins = np.concatenate([np.zeros(1, "<i8"), ends])[: len(lengths)]
        with self._index.open("wb") as stream:
            stream.write(_HEADER.pack(_MAGIC, 1, self._code, len(lengths), len(self._documents)))
            for numbers in (lengths, begins, np.array(self._documents, "<i8")):
                stream.write(numbers.tobytes())

    def __enter__(self) -> MegatronWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._tokens.close()  # without an index: half a file is none
