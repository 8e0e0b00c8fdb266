"""The learning curve of a run, as a picture."""

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from epjax.runs.metrics import BITS, ERROR, Line, best, evaluations, measure, training
from epjax.runs.seeds import Group, band
from epjax.style import GREY, INK, Look, frame, looks

TRAIN, VAL, VAL5 = "#9db4c8", "#d1495b", "#edae49"


def learning_curve(lines: Sequence[Line], path: Path, title: str, subtitle: str = "") -> None:
    """Draw error and cost over epochs, of training and validation, to a PNG."""
    _draw(lines, path, title, subtitle)
    gc.collect()  # a figure is a circle of references and 5 MB: left to itself, one an evaluation stays in memory


def literal(text: str) -> str:
    """`text` as it stands: dollars in a name begin no formula."""
    return text.replace("$", r"\$")


def _draw(lines: Sequence[Line], path: Path, title: str, subtitle: str) -> None:
    train, val = training(list(lines)), evaluations(list(lines))
    figure = Figure(figsize=(9.6, 4.2), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    error, cost = figure.subplots(1, 2)
    curve(error, train, "epoch", "top1_error", TRAIN, label="training top-1")
    curve(error, val, "epoch", "val_top5_error", VAL5, label="validation top-5")
    curve(error, val, "epoch", "val_top1_error", VAL, label="validation top-1")
    error.set(ylabel="error (%)", ylim=(0, None))
    what = "bits" if any("val_bits" in line for line in val) else "cost"
    curve(cost, train, "epoch", what, TRAIN, label="training")
    curve(cost, val, "epoch", f"val_{what}", VAL, label="validation")
    cost.set(ylabel={"bits": "bits per token"}.get(what, what), ylim=(0, None))
    _mark_best({ERROR: error, BITS: cost}[measure(val)], val)
    for axes in (error, cost):
        dress(axes)
    figure.suptitle(literal(title), x=0.01, ha="left", color=INK, fontsize=12, fontweight="bold")
    error.set_title(literal(subtitle), loc="left", fontsize=8, color=GREY)
    figure.savefig(path)


def curve(axes: Axes, lines: Sequence[Line], x: str, y: str, colour: str, **how: Any) -> None:
    """One quantity over `epoch`, or over the minutes that `seconds` makes; an evaluation is a point as well."""
    minutes = 60.0 if x == "seconds" else 1.0
    points = [(line[x] / minutes, line[y]) for line in lines if line.get(y) is not None]
    if points:
        look = {"marker": "o", "markersize": 3.5, "linewidth": 1.8} if y.startswith("val_") else {"linewidth": 1.2}
        axes.plot(*zip(*points, strict=True), **{"color": colour} | look | how)


def looks_of(groups: Sequence[Group]) -> list[Look]:
    """A look for each configuration, by its algorithm."""
    return looks([group.algorithm for group in groups])


def seeds(axes: Axes, group: Group, x: str, y: str, look: Look, **how: Any) -> None:
    """One quantity of a configuration: a run's curve; of several a thin one each, their mean, and its spread."""
    if len(group.runs) == 1:
        curve(axes, group.runs[0].lines, x, y, look.colour, linestyle=look.line, **how)
        return
    for run in group.runs:
        curve(axes, run.lines, x, y, look.colour, linestyle=look.line, alpha=0.35, marker="", linewidth=0.8)
    if points := band(group.runs, x, y):
        at, centre, spread = (np.array(column) for column in zip(*points, strict=True))
        axes.plot(at, centre, color=look.colour, linestyle=look.line, linewidth=1.8, **how)
        axes.fill_between(at, centre - spread, centre + spread, color=look.colour, alpha=0.15, linewidth=0)


def _mark_best(axes: Axes, val: Sequence[Line]) -> None:
    if not val:
        return
    line, judged = best(val), measure(val)
    assert line is not None
    value = judged.of(line)
    axes.axhline(value, color=VAL, linewidth=0.7, linestyle=":")
    axes.annotate(
        f"best {judged.told(line)} at epoch {line['epoch']:g}",
        (0.01, value),
        xycoords=("axes fraction", "data"),
        xytext=(0, -4),
        textcoords="offset points",
        va="top",
        fontsize=8,
        color=VAL,
    )


def dress(axes: Axes) -> None:
    """The look that all pictures share, with epochs below."""
    frame(axes, x="epoch")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=axes.get_xlim()[1] >= 2))
    axes.yaxis.label.set_color(INK)
