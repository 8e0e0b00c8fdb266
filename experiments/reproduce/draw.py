"""Dots, differences, heat maps and curves in the look of the other pictures."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from epjax.runs.plots import curve, dress
from epjax.style import GREY, INK, looks
from experiments.reproduce.cell import Result
from experiments.reproduce.figure import error, errors, interval, mean_spread, pick, written


def canvas(title: str, subtitle: str, panels: tuple[int, int] = (1, 1), size: tuple[float, float] = (9.6, 4.4)) -> Any:
    """A figure and its axes [rows, columns], the title above, what was run below it."""
    figure = Figure(figsize=size, dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(*panels, squeeze=False)
    lines = [part for line in subtitle.splitlines() for part in wrap(line, int(14 * size[0]))]
    figure.suptitle(title + "\n" * len(lines), x=0.01, ha="left", color=INK, fontsize=12, fontweight="bold")
    figure.text(0.01, 1 - 0.37 / size[1], "\n".join(lines), ha="left", va="top", color=GREY, fontsize=8)
    return figure, axes


def save(figure: Figure, path: Path) -> None:
    """A PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def label(axes: Axes, title: str, x: str, y: str) -> None:
    """Words on a panel."""
    axes.set_title(title, loc="left", fontsize=9, color=INK)
    axes.set_xlabel(x, color=INK, fontsize=9)
    axes.set_ylabel(y, color=INK, fontsize=9)
    axes.tick_params(colors=INK, labelsize=8)


def dots(axes: Axes, groups: Sequence[str], series: Mapping[str, Sequence[list[float]]], y: str) -> None:
    """For each group and series a dot a seed and a stroke for their mean; none: diverged."""
    width = 0.7 / len(series)
    for i, ((name, values), look) in enumerate(zip(series.items(), looks(list(series)), strict=True)):
        at = np.arange(len(groups)) + (i - (len(series) - 1) / 2) * width
        for x, v in zip(at, values, strict=True):
            if not v:
                below, words = axes.get_xaxis_transform(), {"rotation": 90, "ha": "center", "fontsize": 7}
                axes.text(x, 0.02, "diverged", transform=below, va="bottom", color=look.colour, **words)  # type: ignore[arg-type]
                continue
            places = x + width * 0.5 * (np.arange(len(v)) - (len(v) - 1) / 2) / max(len(v), 2)
            axes.plot(places, v, "o", color=look.colour, markersize=3.5)
            mean = mean_spread(v)[0]
            axes.hlines(mean, x - 0.4 * width, x + 0.4 * width, color=look.colour, linewidth=1.4)
        axes.plot([np.nan], [np.nan], "o", color=look.colour, label=name, markersize=5)
    _grouped(axes, groups, y)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0))


def differences(axes: Axes, groups: Sequence[str], pairs: Sequence[tuple[list[float], list[float]]], y: str) -> None:
    """For each group the first minus the second of every pair (of one seed) as a dot, with the mean's 95% interval."""
    colour = looks(["ep"])[0].colour
    axes.axhline(0, color=INK, linewidth=0.8)
    for x, (ours, theirs) in enumerate(pairs):
        if not ours or len(ours) != len(theirs):
            continue
        found = np.subtract(ours, theirs)
        mean, half = interval(found.tolist())
        axes.errorbar(x, mean, half, fmt="_", color=colour, markersize=12, capsize=3, linewidth=1.4)
        axes.plot(x + 0.08 * (np.arange(len(found)) - (len(found) - 1) / 2), found, "o", color=colour, markersize=3)
    _grouped(axes, groups, y)


def _grouped(axes: Axes, groups: Sequence[str], y: str) -> None:
    dress(axes)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_xticks(range(len(groups)), groups)
    label(axes, "", "", y)


def heat(axes: Axes, results: Sequence[Result], x: str, y: str, limits: tuple[float, float], **place: Any) -> None:
    """The error at every pair of two coordinates; a cell that diverged is marked, one that is missing is blank."""
    found = pick(results, **place)
    xs, ys = (sorted({r["place"][name] for r in found}) for name in (x, y))
    grid = np.full((len(ys), len(xs)), np.nan)
    for r in found:
        j, i = ys.index(r["place"][y]), xs.index(r["place"][x])
        value = error(r)
        grid[j, i] = np.nan if value is None else value
        dark = value is not None and value > (limits[0] + limits[1]) / 2
        text = "×" if value is None else written(value)
        axes.text(i, j, text, ha="center", va="center", fontsize=8, color="white" if dark else INK)
    axes.imshow(grid, cmap="magma_r", vmin=limits[0], vmax=limits[1], aspect="auto", origin="lower", alpha=0.85)
    axes.set_xticks(range(len(xs)), [f"{v:g}" for v in xs])
    axes.set_yticks(range(len(ys)), [f"{v:g}" for v in ys])
    axes.spines[:].set_visible(False)
    label(axes, "", x, y)


def lines(
    axes: Axes, results: Sequence[Result], names: Callable[[Result], str], x: str = "epoch", y: str = "val_top1_error"
) -> None:
    """Validation error over epochs, a line a result; results of one name, its seeds, share a look."""
    said = [names(r) for r in results]
    for name, look in zip(dict.fromkeys(said), looks(list(dict.fromkeys(said))), strict=True):
        runs = [r for r, its in zip(results, said, strict=True) if its == name]
        for i, r in enumerate(runs):
            curve(axes, r["evaluations"], x, y, look.colour, linestyle=look.line, label=name if i == 0 else None)
    dress(axes)


def over(axes: Axes, results: Sequence[Result], x: str, series: Mapping[str, dict[str, Any]], y: str) -> None:
    """The error over one coordinate, a line a series; runs that diverged stand at the top as crosses."""
    xs = sorted({r["place"][x] for r in results if x in r["place"]})
    for (name, place), look in zip(series.items(), looks(list(series)), strict=True):
        found = pick(results, **place)
        at = [v for v in xs if errors(found, **{x: v})]
        axes.plot(
            [xs.index(v) for v in at],
            [mean_spread(errors(found, **{x: v}))[0] for v in at],
            **look.of_line(),
            marker="o",
            markersize=4,
            linewidth=1.6,
            label=name,
        )
        lost = [xs.index(r["place"][x]) for r in found if error(r) is None]
        if lost:  # an empty line that is not clipped would take the layout to its origin
            axes.plot(
                lost, [1.0] * len(lost), "x", color=look.colour, transform=axes.get_xaxis_transform(), clip_on=False
            )
    dress(axes)
    axes.set_xlim(-0.4, len(xs) - 0.6)
    axes.set_xticks(range(len(xs)), [f"{v:g}" for v in xs])
    label(axes, "", x, y)
