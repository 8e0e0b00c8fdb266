"""Draws experiments/figures/pcn.png: a predictive coding network in its free and its two nudged phases.

python -m experiments.figures.pcn
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

INK, FORWARD, ERROR, PUSH = "#222222", "#2b6cb0", "#c05621", "#2f855a"
LAYERS = ("$h_0 = x$", "$h_1$", "$h_2$", "$h_3$")


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, bend: float) -> None:
    """A curved arrow from `start` to `end`."""
    style = {"arrowstyle": "-|>", "color": colour, "lw": 1.8, "connectionstyle": f"arc3,rad={bend}"}
    ax.annotate("", xy=end, xytext=start, arrowprops={**style, "shrinkA": 20, "shrinkB": 20, "mutation_scale": 14})


def phase(ax: Axes, title: str, nudge: str | None) -> None:
    """One network, from input (left) to output (right); errors and signals where the output is nudged."""
    for k, name in enumerate(LAYERS):
        ax.scatter(2 * k, 0, s=1500, facecolor="#edf2f7" if k else "#cbd5e0", edgecolor=INK, lw=1.4, zorder=3)
        ax.text(2 * k, 0, name, ha="center", va="center", fontsize=11, zorder=4)
        if k:
            arrow(ax, (2 * k - 2, 0.05), (2 * k, 0.05), FORWARD, -0.28)
            ax.text(2 * k - 1, 0.62, f"$f_{k}(h_{k - 1})$", ha="center", color=FORWARD, fontsize=11)
            error = rf"$\epsilon_{k} = h_{k} - f_{k}$" if nudge else rf"$\epsilon_{k} = 0$"
            ax.text(2 * k, -1.28, error, ha="center", color=ERROR if nudge else INK, fontsize=11)
        if nudge and k > 1:
            arrow(ax, (2 * k, -0.05), (2 * k - 2, -0.05), ERROR, -0.28)
            ax.text(2 * k - 1, -0.82, f"$T_{k - 1}$", ha="center", color=ERROR, fontsize=11)
    if nudge:
        ax.annotate(
            "",
            xy=(6.42, 0),
            xytext=(7.5, 0),
            arrowprops={"arrowstyle": "-|>", "color": PUSH, "lw": 2.2, "mutation_scale": 16},
        )
        ax.text(7.6, 0, nudge, color=PUSH, va="center", fontsize=12)
    ax.set_title(title, loc="left", fontsize=12, color=INK)
    ax.set(xlim=(-0.7, 9.6), ylim=(-1.7, 1.15))
    ax.set_axis_off()


def main() -> None:
    """Writes the picture beside this file."""
    figure, axes = plt.subplots(2, 1, figsize=(9, 5.0), constrained_layout=True)
    phase(axes[0], "Free phase: one forward pass, every prediction error is zero", None)
    minus_gradient = r"$\mp\,|\beta|\;\partial C/\partial h_3$"
    phase(axes[1], r"Nudged phases ($\pm\beta$): the output is pushed, errors settle in every layer", minus_gradient)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=130)


if __name__ == "__main__":
    main()
