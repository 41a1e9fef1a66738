"""What every collective must compute, in NumPy, and the random cases it is asked about.

A *case* is one collective call: operation, dtype, shape, reduction, root, layout of the inputs. Each rank's input is a
pure function of the case, the rank and the *part* (inputs that consist of one tensor per peer have a part for each),
so the oracle needs no communication. Floating-point values are small integers and powers of two, whose sums, products
and averages are exact in every dtype and every order of summation: results are compared bit for bit.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[np.generic]

INTEGERS = ("int8", "int16", "int32", "int64", "uint8")
FLOATS = ("float64", "float32", "float16", "bfloat16")
COMPLEX = ("complex64", "complex128")
DTYPES = (*FLOATS, *INTEGERS, "bool", *COMPLEX)

REDUCTIONS = {
    **dict.fromkeys(FLOATS, ("SUM", "AVG", "PRODUCT", "MIN", "MAX", "PREMUL_SUM")),
    **dict.fromkeys(INTEGERS, ("SUM", "PRODUCT", "MIN", "MAX", "BAND", "BOR", "BXOR")),
    **dict.fromkeys(COMPLEX, ("SUM", "AVG", "PREMUL_SUM")),
    "bool": ("SUM", "PRODUCT", "MIN", "MAX", "BAND", "BOR", "BXOR"),
}
"""The reductions that torch and merak let pass for a dtype; of booleans the sum is "any" and the product "all"."""

PREMUL_FACTOR = 0.5

REDUCING = ("all_reduce", "all_reduce_coalesced", "reduce", "reduce_scatter", "reduce_scatter_tensor")
ROOTED = ("broadcast", "reduce", "gather", "scatter")
OPERATIONS = (
    *REDUCING,
    "broadcast",
    "all_gather",
    "all_gather_into_tensor",
    "all_to_all",
    "all_to_all_single",
    "all_to_all_uneven",
    "gather",
    "scatter",
    "barrier",
)


@dataclasses.dataclass(frozen=True)
class Case:
    """One collective call, the same on every rank."""

    operation: str
    dtype: str
    shape: tuple[int, ...]
    reduction: str = "SUM"
    root: int = 0
    strided: bool = False  # inputs that are only read are not contiguous
    seed: int = 0

    def runs_on_gloo(self) -> bool:
        """Whether Gloo can do this at all, so that the tests themselves can be checked on it."""
        lacking = self.dtype == "int16" or self.reduction == "PREMUL_SUM"
        complex_gather = self.operation == "gather" and self.dtype in COMPLEX
        scalars = self.operation in ("reduce_scatter_tensor", "all_gather_into_tensor") and self.shape == ()
        return not (lacking or complex_gather or scalars or (self.operation == "scatter" and self.strided))

    def rows(self, source: int, target: int) -> int:
        """Rows that rank `source` sends to rank `target` in an uneven all-to-all; some are 0."""
        return int(np.random.default_rng((self.seed, source, target, 1)).integers(0, 4))


def values(case: Case, rank: int, part: int, size: int) -> Array:
    """Part `part` of rank `rank`'s input, in the oracle's dtype; `size` is the number of ranks."""
    shape = (case.rows(rank, part), *case.shape) if case.operation == "all_to_all_uneven" else case.shape
    random = np.random.default_rng((case.seed, rank, part, 0))
    if case.dtype == "bool":
        return random.integers(0, 2, shape).astype(np.bool_)
    if case.dtype in INTEGERS:
        limits = np.iinfo(case.dtype)
        return random.integers(limits.min, limits.max, shape, dtype=np.dtype(case.dtype), endpoint=True)
    real = _exact(case, random, shape, size)
    return real + 1j * _exact(case, random, shape, size) if case.dtype in COMPLEX else real


def _exact(case: Case, random: np.random.Generator, shape: tuple[int, ...], size: int) -> Array:
    if case.reduction == "PRODUCT":
        return random.choice([-1.0, 1.0, 2.0, 0.5], shape)
    factor = size if case.reduction == "AVG" else 1
    return random.integers(-8, 9, shape).astype(np.float64) * factor


def reduce(case: Case, inputs: Sequence[Array]) -> Array:
    """The reduction of one array per rank."""
    boolean = case.dtype == "bool"
    with np.errstate(over="ignore"):
        match case.reduction:
            case "SUM" | "BOR" | "MAX" if boolean:
                return functools.reduce(np.logical_or, inputs)
            case "PRODUCT" | "BAND" | "MIN" if boolean:
                return functools.reduce(np.logical_and, inputs)
            case "AVG":
                return functools.reduce(np.add, inputs) / len(inputs)
            case "PREMUL_SUM":
                return functools.reduce(np.add, [PREMUL_FACTOR * array for array in inputs])
    function = {
        "SUM": np.add,
        "PRODUCT": np.multiply,
        "MIN": np.minimum,
        "MAX": np.maximum,
        "BAND": np.bitwise_and,
        "BOR": np.bitwise_or,
        "BXOR": np.bitwise_xor,
    }[case.reduction]
    return functools.reduce(function, inputs)


def expected(case: Case, rank: int, size: int) -> list[Array] | None:
    """The tensors that rank `rank` ends up with; None where the operation leaves it none."""
    mine = functools.partial(values, case, size=size)
    everyone = range(size)
    if case.operation in ROOTED and case.operation in ("reduce", "gather") and rank != case.root:
        return None
    match case.operation:
        case "all_reduce" | "reduce":
            return [reduce(case, [mine(rank=r, part=0) for r in everyone])]
        case "all_reduce_coalesced":
            return [reduce(case, [mine(rank=r, part=part) for r in everyone]) for part in (0, 1)]
        case "reduce_scatter" | "reduce_scatter_tensor":
            return [reduce(case, [mine(rank=r, part=rank) for r in everyone])]
        case "broadcast":
            return [mine(rank=case.root, part=0)]
        case "all_gather" | "all_gather_into_tensor" | "gather":
            return [mine(rank=r, part=0) for r in everyone]
        case "scatter":
            return [mine(rank=case.root, part=rank)]
        case "barrier":
            return []
        case _:  # the kinds of all-to-all
            return [mine(rank=r, part=rank) for r in everyone]


def tensor(case: Case, array: Array, *, strided: bool = False) -> torch.Tensor:
    """A torch tensor of the case's dtype with the array's values; every second element of a larger one if `strided`."""
    dense = torch.from_numpy(np.ascontiguousarray(array)).to(getattr(torch, case.dtype)).reshape(array.shape)
    if not strided or dense.dim() == 0:
        return dense
    wide = torch.zeros(*dense.shape, 2, dtype=dense.dtype)
    wide[..., 0] = dense
    return wide[..., 0]


def flat(tensors: Sequence[torch.Tensor]) -> Array:
    """All elements of some tensors in one array of the oracle's dtype."""
    joined = torch.cat([t.reshape(-1) for t in tensors]) if tensors else torch.zeros(0)
    if joined.is_complex():
        return joined.to(torch.complex128).numpy()
    return (joined.double() if joined.is_floating_point() else joined).numpy()


def flat_arrays(arrays: Sequence[Array]) -> Array:
    """All elements of some arrays in one."""
    return np.concatenate([array.ravel() for array in arrays]) if arrays else np.zeros(0)
