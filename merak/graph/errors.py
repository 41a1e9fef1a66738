"""Why a model could not be captured, in words that help: the operation, the line of source, what to do."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import fx, nn


class CaptureError(ValueError):
    """A model, or a batch, that cannot be captured or cut."""


_ADVICE = (
    (
        r"data.?dependent|GuardOnDataDependent|unbacked|Could not guard",
        "the model decides by the values in a tensor (not its shape), which no graph can hold. Take the decision out "
        "of `forward`, or make it with torch.where or masks",
    ),
    (
        r"use_cache|DynamicCache|Cache",
        "the output has a cache of keys and values: set use_cache=False in the model's configuration",
    ),
    (
        r"Constraints violated|specializ",
        "the model fixes a size that the example lets vary: give an example of the size that training uses",
    ),
    (r"unexpected keyword|missing .* required|takes .* positional", "the batch does not fit the model's `forward`"),
)


def explain_failure(error: Exception, model: nn.Module) -> CaptureError:
    """A `CaptureError` that says what torch.export said, where in the model's source, and what may help."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, CaptureError):  # it has said what to do
        return CaptureError(f"{type(model).__name__} could not be captured: {text}{_at(_place(error))}")
    advice = next((advice for pattern, advice in _ADVICE if re.search(pattern, text)), None)
    lines = [f"{type(model).__name__} could not be captured: {type(error).__name__}: {text.splitlines()[0]}"]
    lines[0] += _at(_place(error))
    if advice:
        lines.append(f"  {advice}.")
    return CaptureError("\n".join(lines))


def explain_changes(changed: Sequence[str], model: nn.Module) -> CaptureError:
    """A `CaptureError` about attributes that `forward` changes, and that change what the next call computes."""
    return CaptureError(
        f"{type(model).__name__} cannot be captured: `forward` changes {some(changed)}, and with that "
        "the next call computes something else; a graph would do for good what the first call does.\n"
        "  Keep what changes from call to call in a buffer (`register_buffer`), as a tensor, and update that in place "
        "(`add_`, `copy_`)."
    )


def some(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def explain_sizes_of_values(node: fx.Node, model: nn.Module) -> CaptureError:
    """A `CaptureError` about an operation whose result's size depends on values."""
    lines = [
        f"{type(model).__name__} cannot be captured: the result of {node.target} has a size, or is a number, that "
        "depends on the values in a tensor, and stages that send it to each other must know sizes beforehand"
    ]
    if line := line_of(node):
        lines.append(f"  at {line}")
    lines.append("  Keep all elements and mask them (torch.where, masked_fill, a product with the mask).")
    return CaptureError("\n".join(lines))


def line_of(node: fx.Node) -> str | None:
    """Where the model's source says so, as `file:line in function: the line`."""
    trace = str(node.meta.get("stack_trace") or "")
    calls = re.findall(r'File "([^"]+)", line (\d+), in (\S+)\n\s*(.*)', trace)
    own = [call for call in calls if "/torch/" not in call[0] and "/merak/graph/" not in call[0]]
    return "{}:{} in {}: {}".format(*own[-1]) if own else None


def _at(place: str | None) -> str:
    return f"\n  at {place}" if place else ""


def _place(error: BaseException) -> str | None:
    """The innermost line of code outside torch in the traceback, as `file:line in function`."""
    found = None
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if "/torch/" not in code.co_filename and "/merak/graph/" not in code.co_filename:
            found = f"{code.co_filename}:{trace.tb_lineno} in {code.co_name}"
        trace = trace.tb_next
    return found
