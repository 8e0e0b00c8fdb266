"""The look of all pictures: white ground, few colours, the title says what is seen."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.rows import text
from epjax import style
from epjax.style import GOLD, GREEN, GREY, INK, VIOLET

BACKPROPAGATION = style.BACKPROPAGATION
CENTERED, EVEN_ODD, LIGHT, FORWARD, ONE_SIDED = style.SHADES
"""Kinds of equilibrium propagation; LIGHT is a second line of one of them."""
COLOURS = (GREEN, GOLD, VIOLET, GREY)
"""Of what is no algorithm."""


def figure(title: str, subtitle: str, panels: tuple[int, int] = (1, 1), size: tuple[float, float] = (9.6, 4.4)) -> Any:
    """A figure and its panels, [rows, columns], under a title and a line of what was measured."""
    fig = Figure(figsize=size, dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(fig)
    axes = fig.subplots(*panels, squeeze=False)
    fig.suptitle(f"{title}\n", x=0.01, ha="left", color=INK, fontsize=12, fontweight="bold")
    fig.text(0.01, 1 - 0.37 / size[1], subtitle, ha="left", va="top", color=GREY, fontsize=8)
    return fig, axes


def dress(axes: Axes, title: str = "", x: str = "", y: str = "", legend: bool = True) -> None:
    """Labels, a faint grid, no box, a legend without a frame."""
    style.frame(axes, title, x, y)
    axes.minorticks_off()
    if not legend and (shown := axes.get_legend()):
        shown.remove()


def ticks(axes: Axes, values: Iterable[float], labels: Sequence[str] | None = None) -> None:
    """Ticks of the x axis at the values that were measured, written plainly."""
    places = sorted(set(values))
    axes.set_xticks(places, labels or [text(v) for v in places])
    axes.minorticks_off()


def save(fig: Figure, path: Path) -> None:
    """A PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path)
