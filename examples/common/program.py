"""The frame of an example's `main`: what goes wrong becomes one message and an exit status."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

from merak import _extras

from .options import UsageError


def check_extras(**extras: str) -> None:
    """Fails now, and not after minutes of training, where an optional package is missing; by module, its extra."""
    for module, extra in extras.items():
        _extras.require(module, extra=extra)


def exit_status(work: Callable[[], None], when_interrupted: str) -> int:
    """Does the work; 2 after a mistake of the user's, 130 after Ctrl-C, else 0."""
    try:
        work()
    except (UsageError, ImportError) as error:
        complain(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        complain(when_interrupted)
        return 130
    return 0


def complain(text: str) -> None:
    """Prints why this rank leaves. All ranks mostly leave for one reason, so rank 0 is given the time to name it once:

    torchrun ends the others as soon as it has left. Where this rank is the only one to leave, it speaks for itself.
    """
    if os.environ.get("RANK", "0") != "0":
        time.sleep(5)
    print(text, file=sys.stderr, flush=True)
