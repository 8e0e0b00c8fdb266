"""A convolutional Hopfield network on CIFAR-10: EP, its exact gradient, and a feedforward network of the same layers.

Three 3x3 convolutions of 16, 32 and 64 channels, each with 2x2 max-pooling, and a dense output; 5,000 images, four
epochs. One-sided EP at beta 0.02 with carried differences, ten passes free and eight nudged; the feedforward network
has ReLU and is trained by backpropagation. Published, at eight times the channels with one convolution more, 300
epochs and up to 60 passes free and 20 nudged: about 9.6% (arXiv:2509.26003, as SYSTEMS_NUMBERS reads it). (ours)
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from epjax.recipes import hopfield, perceptron
from experiments.reproduce.cell import Cell, Result
from experiments.reproduce.commands import Command, command
from experiments.reproduce.draw import canvas, differences, label, lines, save
from experiments.reproduce.figure import Finding, errors, gap, judged, mean_spread

NAME = "convolutional"
TITLE = "A convolutional Hopfield network on CIFAR-10"
EP, EXACT, FEEDFORWARD = "EP, one-sided", "exact gradient", "backpropagation, feedforward"
METHODS = {
    EP: (hopfield.EXPERIMENT, "ep"),
    EXACT: (hopfield.EXPERIMENT, "exact"),
    FEEDFORWARD: (perceptron.EXPERIMENT, "bp"),
}
SEEDS = (0, 1, 2)
IMAGES = 5_000
NOISE = 2.5
"""Points of error within which three seeds of so few images say nothing."""


def cell(method: str, seed: int, quick: bool) -> Command:
    """A run of the recipe `cifar10`."""
    experiment, algorithm = METHODS[method]
    place = {"method": method, "seed": seed}
    found = command(
        place, experiment, "cifar10", "cifar10", seed, lambda g: replace(g, algorithm=algorithm), quick, IMAGES
    )
    run = replace(found.config.run, eval_every=2)
    return replace(found, config=replace(found.config, run=run))


def cells(quick: bool) -> list[Cell]:
    """Seed by seed."""
    return [cell(method, seed, quick) for seed in (SEEDS[:1] if quick else SEEDS) for method in METHODS]


def losses(results: Sequence[Result]) -> tuple[tuple[float, float], tuple[float, float]]:
    """EP minus the exact gradient, and that minus the feedforward network: means, halves of their 95% intervals."""
    ep, exact, feedforward = (errors(results, method=m) for m in METHODS)
    return gap(ep, exact), gap(exact, feedforward)


def draw(results: Sequence[Result], path: Path) -> None:
    """Left: a curve a seed. Right: what EP loses to the exact gradient, and that to the feedforward network."""
    mine, its = losses(results)
    title = "EP loses {:+.1f} ± {:.1f} points to the exact gradient, the system {:+.1f} ± {:.1f}".format(*mine, *its)
    what = f"16-32-64 channels, max-pooling, dense output; {IMAGES:,} images of CIFAR-10, four epochs, three seeds"
    figure, axes = canvas(title, f"{what}; 95% intervals", (1, 2), (11, 4.4))
    lines(axes[0, 0], results, lambda r: r["place"]["method"])
    label(axes[0, 0], "", "epoch", "validation top-1 error (%)")
    axes[0, 0].legend(frameon=False, fontsize=8)
    pairs = [(errors(results, method=a), errors(results, method=b)) for a, b in ((EP, EXACT), (EXACT, FEEDFORWARD))]
    differences(axes[0, 1], ["EP minus exact", "exact minus feedforward"], pairs, "points, mean with 95% interval")
    save(figure, path)


def findings(results: Sequence[Result]) -> list[Finding]:
    """Whose loss is it."""
    means = {m: mean_spread(found) for m in METHODS if (found := errors(results, method=m))}
    if len(means) < len(METHODS):
        return []
    told = "; ".join("{}: {:.1f} ± {:.1f}".format(m, *means[m]) for m in METHODS)
    mine, its = losses(results)
    return [
        Finding(
            "EP trains a convolutional Hopfield network as its exact gradient does (ours)",
            judged(mine[0] <= max(NOISE, means[EP][1], means[EXACT][1])),
            "top-1 error, {}; EP minus exact {:+.1f} ± {:.1f}, exact minus feedforward {:+.1f} ± {:.1f}".format(
                told, *mine, *its
            ),
        )
    ]
