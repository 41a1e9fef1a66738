"""The page of documentation that the results make: what was done, tables, verdict, and a picture of learning curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.data.experiment.arms import ARMS, IDEAS, Scale, best_rate, runs_in_order
from benchmarks.data.experiment.report import report
from benchmarks.data.experiment.results import Results
from merak._extras import require

COLOURS = ("#333333", "#e8833a", "#4c8bf5", "#c9b458", "#34a853", "#a142f4", "#7baaf7")
AXES = {"layer_tokens": "effective layer-tokens, millions", "cpu_seconds": "seconds of CPU, one thread"}
PICTURE = "data-efficiency.png"

_ABOUT = """# The same quality with half the data?

What curricula and random layerwise token dropping ([data.md](data.md)) are worth, measured on a small model, by one
command. It trains what is missing, and can be killed and started again; this page is written by its `--page`.

```sh
.venv/bin/python -m benchmarks.data.experiment          # about {hours} hours of one core in all; goes on where it was
.venv/bin/python -m benchmarks.data.experiment --page   # writes this page of what has finished
```

A GPT of {layers} layers of {hidden}, 0.37 million parameters, is trained on real text: Shakespeare's plays, the King
James Bible, Python's documentation and An Anarchist FAQ, 12.7 million tokens of a BPE of {vocabulary}, of which a run
sees {budget:.0f} million or half as many, about once; rows of {tokens} tokens, {batch} a step; AdamW, fp32, one thread.
Losses are those of 5,018 held-out rows at full length, without dropping. What the arms are, and the recipes they
follow, is said in `benchmarks/data/experiment/arms.py`. Every arm is given the same learning rates to choose from, and
all schedules run on layer-tokens. {done} of {all} runs have finished{rest}.

"""

_COUNTS = """
Layer-tokens, raw tokens, sequences and FLOPs are four different things: see [data.md](data.md#what-has-been-used).
Seconds are of a machine that others used at the same time, so that they vary by some 20 % for the same work.
"""


def write_page(results: Results, scale: Scale, rates: list[float], seeds: int, docs: Path) -> None:
    """Writes the page and its picture into a folder of documentation."""
    runs = list(runs_in_order(rates, seeds, True, results.losses))
    done = sum(results.has(run) for run in runs)
    rest = "" if done == len(runs) else "; tables and verdict are of these, and will change"
    hours = sum(run.arm.share for run in runs) * 650 / 3600
    numbers = {"layers": scale.layers, "hidden": scale.hidden, "vocabulary": scale.vocabulary, "tokens": scale.tokens}
    numbers |= {"budget": scale.budget / 1e6, "batch": scale.batch, "done": done, "all": len(runs)}
    text = _ABOUT.format(**numbers, rest=rest, hours=f"{hours:.0f}")
    if any(best_rate(arm, results.losses) for arm in ARMS):
        (docs / "images").mkdir(exist_ok=True)
        draw(results, docs / "images" / PICTURE)
        text += f"![held-out loss over layer-tokens and over CPU seconds](images/{PICTURE})\n\n"
    (docs / "data_efficiency.md").write_text(text + "\n".join(report(results)) + "\n" + _COUNTS)


def draw(results: Results, path: Path) -> None:
    """Held-out loss of each arm's first seed at its best rate, over layer-tokens and over CPU seconds. Ideas are thin.

    Raises:
        ImportError: matplotlib is not installed.
    """
    require("matplotlib", extra="viz").use("Agg")
    plt: Any = require("matplotlib.pyplot", extra="viz")
    figure, panels = plt.subplots(1, len(AXES), figsize=(12, 4.5), sharey=True)
    for number, arm in enumerate([*ARMS, *IDEAS]):
        rate = best_rate(arm, results.losses)
        if rate is None:
            continue
        (line, *_) = results.of(arm, rate)
        main = arm in ARMS
        look = {"color": COLOURS[number] if main else "#bbbbbb", "linewidth": 1.6 if main else 0.8}
        # The first looks, where losses fall steeply, would leave no room for the differences.
        curve = line["curve"][2:]
        for panel, axis in zip(panels, AXES, strict=True):
            scale = 1e6 if axis == "layer_tokens" else 1
            label = arm if main else None
            panel.plot(
                [point[axis] / scale for point in curve], [point["loss"] for point in curve], label=label, **look
            )
    for panel, name in zip(panels, AXES.values(), strict=True):
        panel.set_xlabel(name)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("held-out loss (256 rows), nats a token")
    panels[1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
