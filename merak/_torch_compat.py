"""Everything that depends on which torch is installed, or that torch calls private.

A new torch should break this file and no other.
"""

from __future__ import annotations

import torch


def torch_minor() -> str:
    """The installed torch as "major.minor", for example "2.15"."""
    return ".".join(torch.__version__.split(".")[:2])


def check_torch_matches_build() -> None:
    """Raises ImportError when `merak._C` is missing or was built for another minor version of torch.

    c10d has no stable ABI: a mismatch would crash later, in a place that explains nothing.
    """
    try:
        from merak._build_info import torch_minor as built
    except ImportError:
        raise ImportError(
            "merak's extension module has not been built. In a checkout run `make build`, or "
            "`pip install --no-build-isolation -e .`."
        ) from None
    if built != torch_minor():
        raise ImportError(
            f"merak was built for torch {built}, but torch {torch.__version__} is installed. Run "
            f"`pip install 'torch=={built}.*'` to go back to the torch it was built for, or build it again with "
            "`pip install --no-build-isolation --no-cache-dir --force-reinstall --no-deps torch-merak` "
            "(in a checkout: `make build`)."
        )
