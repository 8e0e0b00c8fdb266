"""What the demo gives: every recipe for the images that come with epjax, five seeds each.

3,000 images of Fashion-MNIST for training, 500 for validation. VGG10 by the recipe, by the same with the paper's beta,
and by backpropagation; the perceptron and the three systems that settle by their recipes. (ours)
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from epjax.recipes import hopfield, imagenet_vgg10, oscillators, perceptron, resistive
from epjax.runs.config import Gradient
from epjax.runs.experiment import Experiment
from epjax.runs.plots import dress
from epjax.style import ALGORITHMS
from experiments.reproduce.cell import Cell, Result
from experiments.reproduce.commands import Command, command
from experiments.reproduce.draw import canvas, label, save
from experiments.reproduce.figure import Finding, errors, judged, mean_spread

NAME = "demo"
TITLE = "The demo, five seeds: what its commands give"
SEEDS = (0, 1, 2, 3, 4)
RECIPE, PAPER_BETA, BACKPROPAGATION = "the recipe", "beta 0.05", "backpropagation"
EXPERIMENTS: dict[str, Experiment] = {
    "VGG10": imagenet_vgg10.EXPERIMENT,
    "perceptron": perceptron.EXPERIMENT,
    "Hopfield": hopfield.EXPERIMENT,
    "resistive": resistive.EXPERIMENT,
    "oscillators": oscillators.EXPERIMENT,
}
METHODS: dict[str, Callable[[Gradient], Gradient]] = {
    RECIPE: lambda usual: usual,
    PAPER_BETA: lambda usual: replace(usual, beta=0.05),
    BACKPROPAGATION: lambda usual: replace(usual, algorithm="bp"),
}
BARS = (
    ("VGG10", RECIPE),
    ("VGG10", PAPER_BETA),
    ("VGG10", BACKPROPAGATION),
    *((n, RECIPE) for n in EXPERIMENTS if n != "VGG10"),
)
LIMIT = 25.0
"""Percent: each of the demo's commands is to end better than this."""


def cell(network: str, method: str, seed: int, quick: bool) -> Command:
    """One run of a demo recipe."""
    place = {"network": network, "method": method, "seed": seed}
    made = command(place, EXPERIMENTS[network], "demo", "demo", seed, METHODS[method], quick)
    return replace(made, images=None)


def cells(quick: bool) -> list[Cell]:
    """Recipes first, then what they are compared with, seed by seed."""
    if quick:
        return [cell("perceptron", RECIPE, seed, quick) for seed in SEEDS[:2]]
    first, then = [b for b in BARS if b[1] == RECIPE], [b for b in BARS if b[1] != RECIPE]
    return [cell(network, method, seed, quick) for bars in (first, then) for seed in SEEDS for network, method in bars]


def draw(results: Sequence[Result], path: Path) -> None:
    """Every seed's error, one column a command."""
    means = [mean_spread(found)[0] for bar in BARS if bar[1] == RECIPE and (found := errors_of(results, bar))]
    title = f"The demo's commands end at {min(means):.1f} to {max(means):.1f}% top-1 error, mean of five seeds"
    figure, axes = canvas(title, "validation error after the last epoch, 500 images, one dot a seed", (1, 1), (8, 4.2))
    (axis,) = axes[0]
    for x, (network, method) in enumerate(BARS):
        found = errors_of(results, (network, method))
        colour = ALGORITHMS["bp" if method == BACKPROPAGATION else "ep"].colour
        axis.plot([x + 0.06 * (i - 2) for i in range(len(found))], found, "o", color=colour, markersize=5)
    dress(axis)
    names = [network if method == RECIPE else f"{network}\n{method}" for network, method in BARS]
    axis.set_xticks(range(len(BARS)), names)
    axis.set_ylim(bottom=0)
    axis.set_xlim(-0.6, len(BARS) - 0.4)
    label(axis, "", "", "top-1 error (%)")
    save(figure, path)


def errors_of(results: Sequence[Result], bar: tuple[str, str]) -> list[float]:
    """The errors of a network by a method, a seed each."""
    return errors(results, network=bar[0], method=bar[1])


def findings(results: Sequence[Result]) -> list[Finding]:
    """Mean and range of each; whether the demo keeps its promise; what beta does to it."""
    found = {bar: errors_of(results, bar) for bar in BARS}

    def told(bar: tuple[str, str]) -> str:
        values = found[bar]
        name = bar[0] if bar[1] == RECIPE else " ".join(bar)
        return (
            f"{name} {mean_spread(values)[0]:.1f} ({min(values):.1f} to {max(values):.1f})" if values else f"{name} -"
        )

    recipes = [values for (_, method), values in found.items() if method == RECIPE]
    mean, spread = mean_spread(found["VGG10", RECIPE]) if found["VGG10", RECIPE] else (float("inf"), 0.0)
    bp = found["VGG10", BACKPROPAGATION]
    return [
        Finding(
            f"Every demo command ends below {LIMIT:.0f}% top-1 error, with every seed (ours)",
            judged(all(len(v) == len(SEEDS) and max(v) < LIMIT for v in recipes)),
            ", ".join(told((network, RECIPE)) for network in EXPERIMENTS),
        ),
        Finding(
            "VGG10's recipe ends no worse than backpropagation from the same seeds (ours)",
            judged(bool(bp) and mean <= mean_spread(bp)[0] + max(spread, mean_spread(bp)[1])),
            ", ".join(told(bar) for bar in BARS if bar[0] == "VGG10"),
        ),
    ]
