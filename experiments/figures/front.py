"""Draws the README's first picture from recorded results: EP beside backpropagation, and what a gradient costs.

python -m experiments.figures.front

Left: experiments/results/parity.json. Right: benchmarks/results/peers.json, FLOPs as XLA counts them.
"""

import json
from math import floor
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from epjax.runs.plots import dress
from epjax.style import BACKPROPAGATION as BP
from epjax.style import EP, GREY, INK
from experiments.reproduce.draw import canvas, save
from experiments.reproduce.figure import errors

ROOT = Path(__file__).parents[2]
OUT = ROOT / "experiments" / "results" / "front.png"
DATA = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "tiny_imagenet_20": "Tiny ImageNet,\n20 classes",
}
NETWORK = "VGG5 x 1/4"
PEERS = {
    ("epjax", "random"): "EP, one-sided",
    ("epjax", "centered"): "EP, centered",
    ("epjax", "even/odd"): "EP as published,\neven/odd iterations",
    ("Dual Propagation", ""): "Dual Propagation, one pass",
    ("FabricPC", ""): "FabricPC",
    ("jpc", "ePC"): "jpc, ePC",
    ("pcx", ""): "pcx",
    ("error_based_PC", ""): "error_based_PC",
}
"""Peer and how its method begins, and their names here."""


def parity(axis: Axes) -> None:
    """Every seed of every data set, by either cost."""
    cells: list[dict[str, Any]] = json.loads((ROOT / "experiments" / "results" / "parity.json").read_text())["cells"]
    for y, dataset in enumerate(DATA):
        for step, (algorithm, colour, name) in enumerate((("bp", BP, "backpropagation"), ("ep", EP, "EP"))):
            found = errors(cells, dataset=dataset, cost="cross_entropy", algorithm=algorithm)
            at, mean = y + 0.16 - 0.32 * step, sum(found) / len(found)
            label = name if y == 0 else None
            axis.plot(found, [at] * len(found), "o", color=colour, alpha=0.45, markersize=5, label=label)
            axis.plot([mean], [at], "|", color=colour, markersize=16, markeredgewidth=2.5)
    dress(axis)
    axis.set_yticks(range(len(DATA)), list(DATA.values()))
    axis.set_ylim(len(DATA) - 0.5, -0.5)
    axis.set_xlim(0, 100)
    axis.set_xlabel("error on held-out images (%), three seeds and their mean", color=INK, fontsize=9)
    axis.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper right")
    axis.set_title("EP learns what backpropagation learns ...", loc="left", fontsize=11, color=INK)


def beside_peers() -> list[tuple[str, float, float]]:
    """(name, FLOPs over backpropagation's, cosine of the worst layer) of each way to a gradient that was measured."""
    rows = json.loads((ROOT / "benchmarks" / "results" / "peers.json").read_text())["rows"]
    return [
        (name, row["flops_over_backprop"], row["worst_layer_cosine"])
        for (peer, begins), name in PEERS.items()
        for row in rows
        if row["network"] == NETWORK and row["peer"] == peer and row["why"] is None and row["method"].startswith(begins)
    ]


def cost(axis: Axes) -> None:
    """A bar for each way to a gradient, and how near its worst layer is."""
    found = sorted([(1.0, "backpropagation", 1.0), *((v, name, worst) for name, v, worst in beside_peers())])
    ours = {name: EP for (peer, _), name in PEERS.items() if peer == "epjax"} | {"backpropagation": BP}
    values = [v for v, *_ in found]
    axis.barh(range(len(found)), values, color=[ours.get(name, GREY) for _, name, _ in found], height=0.62)
    for y, (v, _, worst) in enumerate(found):
        axis.text(v + 0.15, y, f"{v:.2g}   ({_cut(worst)})", va="center", fontsize=9, color=INK)
    dress(axis)
    axis.set_yticks(range(len(found)), [name for _, name, _ in found])
    axis.invert_yaxis()
    axis.set_xlim(0, max(values) * 1.3)
    axis.set_xlabel("FLOPs of a gradient, backpropagation = 1 (cosine of the worst layer)", color=INK, fontsize=9)
    axis.set_title("... at 1.3 to 2 times its cost", loc="left", fontsize=11, color=INK)


def _cut(cosine: float) -> str:
    """To four places, never rounded up to 1 where it is not."""
    return "1" if cosine > 1 - 1e-7 else f"{floor(cosine * 1e4) / 1e4:.4f}"


def main(out: Path = OUT) -> None:
    """Draw it."""
    left = "left: VGG5 of width 1/16, cross-entropy, three epochs"
    what = f"{left}; right: VGG5 of width 1/4, peers' settings in docs/results.md"
    figure, axes = canvas(
        "Equilibrium propagation, as good as backpropagation and nearly as cheap", what, (1, 2), (11, 4)
    )
    parity(axes[0][0])
    cost(axes[0][1])
    save(figure, out)


if __name__ == "__main__":
    main()
