"""What is shown while the job runs: a bar where there is a terminal, plain lines elsewhere (a log file, CI)."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Protocol

from merak import _extras

from .world import World

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress


class Display(Protocol):
    """Shows a run. The loop calls `step` after every step and `note` for all else; `close` ends the display."""

    def step(self, step: int, loss: float, tokens_per_second: float, bytes_sent: int | None) -> None:
        """Step 1, 2, ... is done. The loss and the speed are of the job, the bytes of this rank since its start."""

    def note(self, text: str) -> None:
        """Prints a line of its own."""

    def close(self) -> None:
        """Leaves the terminal as it was."""


class Silence:
    """The display of every rank but 0."""

    def step(self, step: int, loss: float, tokens_per_second: float, bytes_sent: int | None) -> None:
        """Shows nothing."""

    def note(self, text: str) -> None:
        """Shows nothing."""

    def close(self) -> None:
        """There is nothing to end."""


class Lines:
    """A line every few steps."""

    def __init__(self, steps: int, every: int) -> None:
        self._steps = steps
        self._every = every

    def step(self, step: int, loss: float, tokens_per_second: float, bytes_sent: int | None) -> None:
        """Prints a line if it is time for one."""
        if step % self._every == 0 or step == self._steps:
            self.note(
                f"step {step:>{len(str(self._steps))}}/{self._steps}  loss {loss:.4f}  "
                f"{tokens_per_second:,.0f} tokens/s  sent {readable(bytes_sent)}"
            )

    def note(self, text: str) -> None:
        """Prints the line at once, so that a log can be followed."""
        print(text, flush=True)

    def close(self) -> None:
        """There is nothing to end."""


class Bar:
    """A progress bar by `rich`, with the figures of the last step beside it."""

    def __init__(self, steps: int, first: int) -> None:
        bars = _extras.require("rich.progress", extra="viz")
        self._progress: RichProgress = bars.Progress(
            bars.TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            bars.BarColumn(),
            bars.TextColumn("{task.fields[figures]}"),
            bars.TimeElapsedColumn(),
            bars.TextColumn("left"),
            bars.TimeRemainingColumn(),
        )
        self._task = self._progress.add_task("training", total=steps, completed=first, figures="")
        self._progress.start()

    def step(self, step: int, loss: float, tokens_per_second: float, bytes_sent: int | None) -> None:
        """Moves the bar."""
        figures = f"loss {loss:.4f}  {tokens_per_second:,.0f} tokens/s  sent {readable(bytes_sent)}"
        self._progress.update(self._task, completed=step, figures=figures)

    def note(self, text: str) -> None:
        """Prints a line above the bar."""
        self._progress.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        """Stops the bar's thread and shows the cursor again."""
        self._progress.stop()


def open_display(steps: int, first: int, every: int, world: World) -> Display:
    """The display that suits this rank and its standard output, for `steps` steps of which `first` are done.

    Lines, where there is no terminal, are `every` steps apart.
    """
    if not world.leads:
        return Silence()
    return Bar(steps, first) if sys.stdout.isatty() else Lines(steps, every)


class Speed:
    """Tokens a second, over the steps of the last five seconds or so: single steps vary too much to be read."""

    def __init__(self) -> None:
        self._marks = [(time.perf_counter(), 0)]

    def add(self, tokens: int) -> float:
        """Counts `tokens` more, done now; the present speed."""
        now = time.perf_counter()
        self._marks.append((now, self._marks[-1][1] + tokens))
        while len(self._marks) > 2 and now - self._marks[1][0] > 5:
            self._marks.pop(0)
        since, before = self._marks[0]
        return (self._marks[-1][1] - before) / (now - since)


def readable(count: int | None) -> str:
    """A number of bytes in decimal units, `n/a` for None."""
    if count is None:
        return "n/a"
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.4g} {unit}"
        size /= 1000
    return f"{size:.4g} GB"
