"""Alpha and beta of a link, from the times of messages of several sizes.

The model: a collective whose V bytes cross the link as x bytes, in s steps, takes alpha s + beta x (link.py). Long
messages say what a byte takes, short ones what a step takes besides. On real wires the two are not one line: a shaped
link lets the first bytes pass at once, libraries change their protocol with the size. So each is fitted where it
matters, by least squares:

    beta   the slope of the longer half of the messages
    alpha  what messages take besides beta x, if that is less than half of their time, each weighed by its own time: an
           error of a microsecond counts most for the shortest

Where noise leaves nothing for one of them, it gets all: a slope of 0 or less becomes the longest message's whole time
for its bytes, an alpha of 0 or less the shortest one's whole time for its steps. That is too much rather than nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def fit(steps: int, crossed: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Alpha (seconds a step) and beta (seconds a byte).

    Args:
        steps: s, of every message.
        crossed: x, by message, shortest first; two or more.
        seconds: what it took.
    """
    first_long = min((len(crossed) + 1) // 2, len(crossed) - 2)
    beta = statistics.linear_regression(crossed[first_long:], seconds[first_long:]).slope
    if beta <= 0:
        beta = seconds[-1] / crossed[-1]
    messages = list(zip(crossed, seconds, strict=True))
    short = [(nbytes, took) for nbytes, took in messages if beta * nbytes < took / 2] or messages[:1]
    besides = sum(steps / took * (1 - beta * nbytes / took) for nbytes, took in short)
    alpha = besides / sum((steps / took) ** 2 for _, took in short)
    return alpha if alpha > 0 else seconds[0] / steps, beta
