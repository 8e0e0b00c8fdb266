"""The learning curve of a run, as a picture."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.metrics import Line, evaluations, training

INK, GREY, TRAIN, VAL, VAL5 = "#22303c", "#6b7a88", "#9db4c8", "#d1495b", "#edae49"


def learning_curve(lines: Sequence[Line], path: Path, title: str, subtitle: str = "") -> None:
    """Draw error and cost over epochs, of training and validation, to a PNG."""
    train, val = training(list(lines)), evaluations(list(lines))
    figure = Figure(figsize=(9.6, 4.2), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    error, cost = figure.subplots(1, 2)
    _curve(error, train, "top1_error", "training top-1", TRAIN)
    _curve(error, val, "val_top5_error", "validation top-5", VAL5, marker="o")
    _curve(error, val, "val_top1_error", "validation top-1", VAL, marker="o")
    error.set(ylabel="error (%)", ylim=(0, None))
    _mark_best(error, val)
    _curve(cost, train, "cost", "training", TRAIN)
    _curve(cost, val, "val_cost", "validation", VAL, marker="o")
    cost.set(ylabel="cost", ylim=(0, None))
    for axes in (error, cost):
        dress(axes)
    figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=12, fontweight="bold")
    error.set_title(subtitle, loc="left", fontsize=8, color=GREY)
    figure.savefig(path)


def _curve(axes: Axes, lines: Sequence[Line], name: str, label: str, colour: str, marker: str = "") -> None:
    points = [(line["epoch"], line[name]) for line in lines if line[name] is not None]
    if points:
        width = 1.8 if marker else 1.2
        axes.plot(*zip(*points, strict=True), color=colour, label=label, marker=marker, linewidth=width, markersize=3.5)


def _mark_best(axes: Axes, val: Sequence[Line]) -> None:
    if not val:
        return
    best = min(val, key=lambda line: line["val_top1_error"])
    value, epoch = best["val_top1_error"], best["epoch"]
    axes.axhline(value, color=VAL, linewidth=0.7, linestyle=":")
    axes.annotate(
        f"best {value:.2f}% at epoch {epoch:g}",
        (0.01, value),
        xycoords=("axes fraction", "data"),
        xytext=(0, -4),
        textcoords="offset points",
        va="top",
        fontsize=8,
        color=VAL,
    )


def dress(axes: Axes) -> None:
    """The look that all pictures share: epochs below, light grid, no frame."""
    axes.set_xlabel("epoch", color=INK)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=axes.get_xlim()[1] >= 2))
    axes.grid(True, color="#e6ebf0", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#b8c4ce")
    axes.tick_params(colors=INK, labelsize=8)
    axes.yaxis.label.set_color(INK)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
