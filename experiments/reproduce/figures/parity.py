"""EP against backpropagation: four data sets, two costs, three seeds.

The paper's tables: equal within a few tenths of a point on MNIST, CIFAR-10, CIFAR-100 and ImageNet32. EP here is
centered, by one sweep: the same equilibria at 7 forward-equivalents instead of 25.
"""

from collections.abc import Sequence
from math import sqrt
from pathlib import Path

import numpy as np

from epjax.runs.config import Gradient
from experiments.reproduce.cell import Cell, Result
from experiments.reproduce.draw import canvas, differences, dots, save
from experiments.reproduce.figure import Finding, errors, interval, judged, mean_spread, size, vgg5

NAME = "parity"
TITLE = "Parity: equilibrium propagation beside backpropagation"
DATASETS = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "tiny_imagenet_20": "Tiny ImageNet, 20",
}
COSTS = ("cross_entropy", "squared_error")
ALGORITHMS = {"EP": "ep", "backpropagation": "bp"}
SEEDS = (0, 1, 2)
TOLERANCE = 0.3


def cells(quick: bool) -> list[Cell]:
    """Every data set, cost, algorithm and seed."""
    found: list[Cell] = []
    for seed in SEEDS[:1] if quick else SEEDS:
        for dataset in list(DATASETS)[:1] if quick else DATASETS:
            for cost in COSTS[:1] if quick else COSTS:
                for algorithm in ALGORITHMS.values():
                    gradient = Gradient(algorithm=algorithm, cost=cost, traversal="sweep", beta=0.02)  # type: ignore[arg-type]
                    place = {"dataset": dataset, "cost": cost, "algorithm": algorithm, "seed": seed}
                    found.append(vgg5(place, gradient, dataset, quick=quick, images=5000, seed=seed))
    return found


def draw(results: Sequence[Result], path: Path) -> None:
    """Left: a dot a seed. Right: EP minus backpropagation, seed by seed, with its 95% interval."""
    places = [(d, c) for d in DATASETS for c in COSTS]
    groups = [f"{DATASETS[d]}\n{c.replace('_', ' ')}" for d, c in places]
    series = {
        name: [errors(results, dataset=d, cost=c, algorithm=a) for d, c in places] for name, a in ALGORITHMS.items()
    }
    pairs = list(zip(*series.values(), strict=True))
    gaps = [interval(np.subtract(*pair).tolist())[0] for pair in pairs if pair[0] and len(pair[0]) == len(pair[1])]
    title = f"EP ends {min(gaps):+.1f} to {max(gaps):+.1f} points from backpropagation" if gaps else TITLE
    figure, axes = canvas(title, f"{size(results)}; centered, one sweep, beta 0.02", (1, 2), (13, 4.6))
    dots(axes[0, 0], groups, series, "validation top-1 error (%)")
    differences(axes[0, 1], groups, pairs, "EP minus backpropagation (points), mean with 95% interval")
    for axis in axes[0]:
        axis.tick_params(axis="x", labelsize=6.5)
    save(figure, path)


def findings(results: Sequence[Result]) -> list[Finding]:
    """EP within one pooled standard deviation, or 0.3 points, of backpropagation."""
    found = []
    for dataset in DATASETS:
        for cost in COSTS:
            ep, bp = (errors(results, dataset=dataset, cost=cost, algorithm=a) for a in ALGORITHMS.values())
            if len(ep) < 2 or len(bp) < 2:
                continue
            (e, s_e), (b, s_b) = mean_spread(ep), mean_spread(bp)
            pooled = sqrt((s_e**2 + s_b**2) / 2)
            found.append(
                Finding(
                    f"EP does as well as backpropagation: {dataset.replace('_', ' ')}, {cost.replace('_', ' ')}",
                    judged(e - b <= max(pooled, TOLERANCE)),
                    f"EP {e:.2f} ± {s_e:.2f}, backpropagation {b:.2f} ± {s_b:.2f}, {len(ep)} seeds",
                )
            )
    return found
