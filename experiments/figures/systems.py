"""Draws the pictures of docs/systems.md: each system, how a unit answers, and what a nudge does.

python -m experiments.figures.systems

Curves are computed by `epjax` from small systems drawn at random; nothing in them is measured on data.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

import epjax
from epjax.perturbation import Nudge
from epjax.systems import Hopfield, Oscillators, Relax, Resistive
from epjax.systems.chain import Chain

OUT = Path(__file__).parents[2] / "docs" / "pictures"
INK, COUPLING, PUSH, FREE = "#22303c", "#2b6cb0", "#2f855a", "#c05621"
SIZES = (16, 16, 16, 4)
SYSTEMS: dict[str, tuple[Chain, str, str, str]] = {
    "hopfield": (Hopfield.dense(SIZES, gain=0.45), "$s_%d$", "$W_%d$", "Hopfield network: symmetric couplings"),
    "resistive": (
        Resistive(SIZES, input_gain=3.0, gain=2.0),
        "$v^%d$",
        "$g^%d$",
        "Resistive network: conductances, and a diode at every hidden node",
    ),
    "oscillators": (Oscillators(SIZES, gain=0.4), r"$\varphi^%d$", "$W^%d$", "Oscillators: phases pull each other"),
}


def chain(ax: Axes, state: str, coupling: str) -> None:
    """Blocks from the clamped input to the nudged output, each pair coupled in both directions."""
    for k in range(4):
        ax.scatter(2 * k, 0, s=1100, facecolor="#edf2f7" if k else "#cbd5e0", edgecolor=INK, lw=1.4, zorder=3)
        ax.text(2 * k, 0, state % k if k else "$x$", ha="center", va="center", fontsize=11, zorder=4)
        if k:
            style = {"arrowstyle": "<|-|>" if k > 1 else "-|>", "color": COUPLING, "lw": 1.8, "mutation_scale": 12}
            ends = {"xy": (2 * k - 0.45, 0), "xytext": (2 * k - 1.55, 0)}
            ax.annotate("", **ends, arrowprops=style)  # type: ignore[arg-type]
            ax.text(2 * k - 1, 0.28, coupling % k, ha="center", color=COUPLING, fontsize=10)
    ax.annotate("", xy=(6.5, 0), xytext=(7.5, 0), arrowprops={"arrowstyle": "-|>", "color": PUSH, "lw": 2.2})
    ax.text(7.6, 0, r"$-\beta\,\partial C$", color=PUSH, va="center", fontsize=11)
    ax.set(xlim=(-0.7, 9.4), ylim=(-0.9, 0.9))
    ax.set_axis_off()


def response(ax: Axes, name: str) -> None:
    """What a unit does in a field z."""
    z = np.linspace(-2, 2, 401)
    if name == "hopfield":
        ax.plot(z, np.clip(z, 0, 1), color=INK)
        title = "a hidden unit: clip(z, 0, 1)"
    elif name == "resistive":
        ax.plot(z, np.maximum(z, 0), color=INK, label="half of the nodes")
        ax.plot(z, np.minimum(z, 0), color=FREE, label="the other half")
        ax.legend(frameon=False, fontsize=7)
        title = "a hidden node: z / den, one sign"
    else:
        for bias, colour in ((1.0, INK), (0.3, FREE)):
            ax.plot(z, np.sin(np.arctan2(z, bias)), color=colour, label=f"bias {bias:g}")
        ax.legend(frameon=False, fontsize=7)
        title = "sine of a phase in a field (bias, z)"
    dress(ax, title, "field z", "")


def settling(ax: Axes, system: Chain) -> None:
    """Change by pass, free and nudged."""
    params = system.init(jax.random.key(0), (12,))
    x = jax.random.uniform(jax.random.key(1), (12,))
    rest = system.free(params, x, Relax(400, 1e-7, over="auto"))
    nudge = Nudge(epjax.cost.squared_error, jnp.int32(1), jnp.float32(0.01))
    found = system.nudged(params, rest, nudge, Relax(40, None, trace=True), "carried")
    assert found.changes is not None
    assert found.errors is not None
    ax.semilogy(range(1, 41), np.maximum(found.changes, 1e-9), color=PUSH)
    ax.set_ylim(1e-8, 2)
    dress(ax, "nudged phase: change by pass", "pass", "")


def decay(ax: Axes, system: Chain) -> None:
    """Displacement by block."""
    params = system.init(jax.random.key(0), (12,))
    x = jax.random.uniform(jax.random.key(1), (12,))
    rest = system.free(params, x, Relax(400, 1e-7, over="auto"))
    nudge = Nudge(epjax.cost.squared_error, jnp.int32(1), jnp.float32(0.01))
    found = system.nudged(params, rest, nudge, Relax(400, 1e-6, over="auto"), "carried")
    assert found.errors is not None
    sizes = [float(jnp.linalg.norm(d)) for d in found.errors]
    ax.semilogy(range(1, len(sizes) + 1), np.array(sizes) / sizes[-1], color=FREE, marker="o", markersize=4)
    ax.set_ylim(0.8 * 10 ** np.floor(np.log10(sizes[0] / sizes[-1])), 1.3)
    ax.set_xticks(range(1, len(sizes) + 1))
    dress(ax, "displacement by layer, over the output's", "layer", "")


def dress(ax: Axes, title: str, x: str, y: str) -> None:
    """Small titles, no box."""
    ax.set_title(title, loc="left", fontsize=8.5, color=INK)
    ax.set_xlabel(x, fontsize=8, color=INK)
    ax.set_ylabel(y, fontsize=8, color=INK)
    ax.tick_params(labelsize=7, colors=INK)
    ax.minorticks_off()
    ax.grid(True, color="#e6ebf0", linewidth=0.8)
    ax.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Writes the pictures of docs/systems.md."""
    for name, (system, state, coupling, title) in SYSTEMS.items():
        figure = plt.figure(figsize=(9, 4.2), constrained_layout=True)
        grid = figure.add_gridspec(2, 3, height_ratios=[1, 1.6])
        chain(figure.add_subplot(grid[0, :]), state, coupling)
        response(figure.add_subplot(grid[1, 0]), name)
        settling(figure.add_subplot(grid[1, 1]), system)
        decay(figure.add_subplot(grid[1, 2]), system)
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK)
        figure.savefig(OUT / f"{name}.png", dpi=130)
        plt.close(figure)


if __name__ == "__main__":
    main()
