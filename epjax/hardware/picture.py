"""The picture of a budget: the error over beta, and what each layer gives to read. It loads matplotlib."""

import textwrap
from pathlib import Path
from typing import Protocol

import numpy as np

from epjax.extras import extra
from epjax.style import BACKPROPAGATION as BLUE
from epjax.style import EP as RED
from epjax.style import GREY, INK, frame

with extra("train"):
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, NullFormatter


class Found(Protocol):
    """What is drawn of a budget."""

    @property
    def beta(self) -> float:
        """The strength that was asked for."""
        ...

    @property
    def read_noise(self) -> float:
        """Relative to a layer's RMS."""
        ...

    @property
    def rms(self) -> tuple[float, ...]:
        """Of the free states [L]."""
        ...

    @property
    def displacement(self) -> tuple[float, ...]:
        """RMS of what a nudge moves [L]."""
        ...

    @property
    def layer_noise(self) -> tuple[float, ...]:
        """The read noise that each layer bears [L]."""
        ...

    @property
    def noise(self) -> float:
        """Of the gradient, times beta."""
        ...

    @property
    def betas(self) -> tuple[float, ...]:
        """Where the bias was measured."""
        ...

    @property
    def biases(self) -> tuple[float, ...]:
        """The bias there."""
        ...

    @property
    def best_beta(self) -> float:
        """Where the error is least."""
        ...

    @property
    def verdict(self) -> str:
        """One sentence."""
        ...

    @property
    def can_learn(self) -> bool:
        """Whether it is a good one."""
        ...


def draw_budget(found: Found, path: Path) -> None:
    """One PNG: bias, noise and their sum over beta with the best one; states, displacements and noise by layer."""
    figure = Figure(figsize=(10, 3.9), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    errors, layers = figure.subplots(1, 2)
    _errors(errors, found)
    _layers(layers, found)
    title = "\n".join(textwrap.wrap(found.verdict, 105))
    colour = INK if found.can_learn else RED
    figure.suptitle(title, x=0.01, ha="left", color=colour, fontsize=11, fontweight="bold")
    figure.savefig(path)


def _errors(axes: Axes, found: Found) -> None:
    betas, biases = np.array(found.betas), np.array(found.biases)
    sound = biases < 10  # past the end of a negative phase there is no estimate
    betas, biases = betas[sound], biases[sound]
    axes.plot(betas, biases, color=GREY, marker="o", markersize=3, label="bias")
    if found.noise:
        axes.plot(betas, found.noise / betas, color=GREY, linestyle="--", label="noise / beta")
    axes.plot(betas, np.hypot(biases, found.noise / betas), color=BLUE, linewidth=2, label="error of the gradient")
    axes.axvline(found.best_beta, color=RED, linewidth=0.8, linestyle=":")
    axes.annotate(
        f" best beta {found.best_beta:.2g}",
        (found.best_beta, 0.97),
        xycoords=("data", "axes fraction"),
        va="top",
        color=RED,
        fontsize=8,
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("beta", color=INK, fontsize=9)
    _dress(axes, f"error relative to the gradient, read noise {found.read_noise:.1e}")


def _layers(axes: Axes, found: Found) -> None:
    k = np.arange(1, len(found.rms) + 1)
    rms, allowed = np.array(found.rms), np.array(found.layer_noise)
    axes.plot(k, rms, color=INK, marker="s", markersize=4, label="state")
    axes.plot(k, found.displacement, color=BLUE, marker="o", markersize=4, label=f"displaced at beta {found.beta:.2g}")
    axes.plot(k, np.where(allowed > 0, allowed * rms, np.nan), color=GREY, marker="^", label="noise that is borne")
    if found.read_noise:
        axes.plot(k, found.read_noise * rms, color=RED, linestyle=":", label="read noise")
    axes.set_yscale("log")
    axes.set_xlim(0.5, len(k) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("layer", color=INK, fontsize=9)
    _dress(axes, "RMS of what is read, in the unit of the state")


def _dress(axes: Axes, title: str) -> None:
    frame(axes, title)
    axes.yaxis.set_minor_formatter(NullFormatter())
