"""The picture of a diagnosis. Nothing else in the library loads matplotlib, and this only when it is drawn."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from epjax.extras import extra
from epjax.style import BACKPROPAGATION as BLUE
from epjax.style import EP as RED
from epjax.style import GREY, INK, frame

with extra("train"):
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, NullFormatter


class OfLayer(Protocol):
    """What is drawn of one layer."""

    @property
    def cosine(self) -> float | None:
        """With backpropagation's gradient."""
        ...

    @property
    def norm_ratio(self) -> float | None:
        """Beside backpropagation's gradient."""
        ...

    @property
    def error(self) -> float:
        """||eps_k|| / ||h_k||."""
        ...

    @property
    def crossings(self) -> float:
        """Share of switches that changed."""
        ...


class Report(Protocol):
    """What is drawn of a diagnosis."""

    @property
    def verdict(self) -> str:
        """In two or three words."""
        ...

    @property
    def advice(self) -> str:
        """One sentence."""
        ...

    @property
    def layers(self) -> Sequence[OfLayer]:
        """By layer."""
        ...

    @property
    def residuals(self) -> Sequence[float]:
        """By iteration."""
        ...

    @property
    def rounding(self) -> float:
        """The relative size of one rounding of a state."""
        ...


def draw_diagnosis(report: Report, path: Path, bound: float) -> None:
    """Gradient, errors and kinks by layer, residual by iteration, under the verdict, to a PNG.

    `bound` is the cosine from which on a layer's gradient is called good.
    """
    figure = Figure(figsize=(12, 3.9), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    gradients, errors, kinks, residuals = figure.subplots(1, 4)
    _gradients(gradients, report, bound)
    _errors(errors, report)
    _kinks(kinks, report)
    _residuals(residuals, report)
    for axes in (gradients, errors, kinks):
        axes.set_xlabel("layer", color=INK, fontsize=9)
        axes.set_xlim(0.5, len(report.layers) + 0.5)
    title = "\n".join(textwrap.wrap(f"{report.verdict}: {report.advice}", 120))
    colour = INK if report.verdict == "good" else RED
    figure.suptitle(title, x=0.01, ha="left", color=colour, fontsize=11, fontweight="bold")
    figure.savefig(path)


def _gradients(axes: Axes, report: Report, bound: float) -> None:
    for name, colour, marker in (("cosine", BLUE, "o"), ("norm_ratio", GREY, "s")):
        found = [(k, getattr(layer, name)) for k, layer in enumerate(report.layers, start=1)]
        points = [(k, value) for k, value in found if value is not None]
        axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4, label=name.replace("_", " "))
    axes.axhline(bound, color=RED, linewidth=0.8, linestyle=":")
    axes.axhline(1, color=GREY, linewidth=0.6)
    _dress(axes, "gradient beside backpropagation's")
    low, high = axes.get_ylim()
    axes.set_ylim(max(-1.05, min(low, 0.9)), min(2.05, max(high, 1.02)))


def _errors(axes: Axes, report: Report) -> None:
    found = [(k, layer.error) for k, layer in enumerate(report.layers, start=1)]
    points = [(k, error) for k, error in found if error > 0 and math.isfinite(error)]
    if points:
        axes.plot(*zip(*points, strict=True), color=BLUE, marker="o", markersize=4)
    axes.axhline(report.rounding, color=RED, linewidth=0.8, linestyle=":")
    axes.annotate(
        "one rounding", (0.02, report.rounding), xycoords=("axes fraction", "data"), va="bottom", color=RED, fontsize=8
    )
    axes.set_yscale("log")
    _dress(axes, "errors beside states: ||eps|| / ||h||")


def _kinks(axes: Axes, report: Report) -> None:
    shares = [100 * layer.crossings if math.isfinite(layer.crossings) else 0.0 for layer in report.layers]
    axes.bar(range(1, len(shares) + 1), shares, color=BLUE, width=0.6)
    axes.set_ylim(0, max(1.0, 1.1 * max(shares)))
    _dress(axes, "gates and routes that changed (%)")


def _residuals(axes: Axes, report: Report) -> None:
    points = [(i, r) for i, r in enumerate(report.residuals) if math.isfinite(r) and r > 0]
    if points:
        axes.plot(*zip(*points, strict=True), color=BLUE, marker="o", markersize=4)
        exponents = [math.log10(r) for _, r in points]
        axes.set_ylim(10 ** math.floor(min(exponents)) / 1.2, 10 ** math.ceil(max(exponents)) * 1.2)
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(-0.2, len(report.residuals) - 0.8)
    axes.set_xlabel("iterations done", color=INK, fontsize=9)
    _dress(axes, "residual of the nudged states")


def _dress(axes: Axes, title: str) -> None:
    frame(axes, title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
