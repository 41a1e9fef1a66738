"""Optional dependencies, imported when they are first needed."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str, *, extra: str) -> ModuleType:
    """Imports `module`, which comes with the extra `extra` of the distribution `torch-merak`.

    Raises:
        ImportError: the module is not installed; the message names the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise  # installed, but one of its own dependencies is missing: another story
        raise ImportError(
            f"This needs the package {module.partition('.')[0]!r}, which comes with merak's extra [{extra}]. In a "
            f"checkout of merak run `pip install --no-build-isolation '.[{extra}]'`, or install the package itself."
        ) from error
