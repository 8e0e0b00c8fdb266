"""Whose fault is it, EP's or the system's? Four systems of one size, each trained by EP and by its exact gradient.

The paper closes with the claim that what stops EP in other systems is the systems, not EP. Here each system has one
hidden layer of 512 units and all of MNIST, and three gradients with the same data, order, rates and steps: one-sided EP
with carried differences, centered EP, and the exact gradient at the free state (implicit differentiation; for the
predictive coding network backpropagation). A feedforward network is trained by backpropagation beside them. What EP
loses to the exact gradient is EP's; what the exact gradient loses to the feedforward network is the system's. (ours)
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from epjax.recipes import hopfield, perceptron
from epjax.runs.config import Gradient
from epjax.runs.experiment import Experiment
from epjax.runs.plots import dress
from epjax.style import ALGORITHMS, looks
from experiments.reproduce.built import SYSTEMS
from experiments.reproduce.cell import Cell, Result
from experiments.reproduce.commands import Command, command
from experiments.reproduce.draw import canvas, label, save
from experiments.reproduce.figure import Finding, errors, judged, mean_spread

NAME = "systems"
TITLE = "Four systems, one estimator: what is EP's loss and what the system's"
EXPERIMENTS: dict[str, Experiment] = {"feedforward": perceptron.EXPERIMENT, **SYSTEMS}
CENTERED = {"PCN": 0.05, "Hopfield": 0.2, "resistive": 1.0, "oscillators": 0.05}
"""The beta of the centered scheme: what published settings, or SYSTEMS' own, have."""
SETTLED: dict[str, dict[str, Any]] = {"oscillators": {"free_iterations": 200, "free_tolerance": 1e-6}}
"""Free phases of exact gradients. After the recipe's 8 passes the Hessian of oscillators may be indefinite still: the
linear equations of implicit differentiation then have no stable solution, and training by them ends at chance or in
NaN (all of three seeds), where EP goes on learning."""
SEEDS = (0, 1, 2)
METHODS: dict[str, Callable[[Gradient, str], Gradient]] = {
    "one-sided": lambda usual, system: usual,
    "centered": lambda usual, system: replace(usual, scheme="centered", beta=CENTERED[system]),
    "exact": lambda usual, system: replace(usual, algorithm="exact", **SETTLED.get(system, {})),
}


def cell(system: str, method: str, dataset: str, seed: int, quick: bool) -> Command:
    """One run of the system's recipe for these data."""
    place = {"dataset": dataset, "system": system, "method": method, "seed": seed}
    change = METHODS["exact" if system == "feedforward" else method]
    experiment = EXPERIMENTS[system]
    recipe = dataset if (experiment, dataset) == (hopfield.EXPERIMENT, "fashion_mnist") else "mnist"
    return command(place, experiment, recipe, dataset, seed, lambda usual: change(usual, system), quick)


def cells(quick: bool) -> list[Cell]:
    """Seed by seed, so that a part of the grid compares everything."""
    seeds, found = SEEDS[:1] if quick else SEEDS, []
    for seed in seeds:
        found.append(cell("feedforward", "backpropagation", "mnist", seed, quick))
        found += [cell(s, m, "mnist", seed, quick) for s in CENTERED for m in METHODS]
    found += [cell(s, "one-sided", "fashion_mnist", seed, quick) for seed in seeds for s in CENTERED]
    return [*found, *(cell("feedforward", "backpropagation", "fashion_mnist", seed, quick) for seed in seeds)]


def draw(results: Sequence[Result], path: Path) -> None:
    """Errors on MNIST by system: EP one-sided and centered, the exact gradient, and the feedforward line."""
    what = "784-512-10, all of MNIST, three seeds. EP against the exact gradient; dashed: feedforward, backpropagation"
    limit = mean_spread(errors(results, dataset="mnist", system="feedforward"))[0]
    told = {system: losses(results, system) for system in CENTERED}
    ours = max(min(t["one-sided"], t["centered"]) - t["exact"] for t in told.values())
    theirs = max(t["exact"] for t in told.values()) - limit
    title = f"EP loses {ours:.2f} points at most, the systems themselves up to {theirs:.1f}"
    figure, axes = canvas(title, what, (1, 1), (8.6, 4.2))
    (axis,) = axes[0]
    axis.axhline(limit, **ALGORITHMS["bp"].of_line(), linewidth=1)
    names = {m: {"exact": "exact gradient"}.get(m, f"EP, {m}") for m in METHODS}
    colours = {m: look.colour for m, look in zip(METHODS, looks(list(names.values())), strict=True)}
    for x, system in enumerate(CENTERED):
        for i, method in enumerate(METHODS):
            found = errors(results, dataset="mnist", system=system, method=method)
            at = [x + 0.22 * (i - 1) + 0.03 * (j - 1) for j in range(len(found))]
            shown = names[method] if x == 0 else None
            axis.plot(at, found, "o", color=colours[method], markersize=5, label=shown)
    dress(axis)
    axis.set_ylim(bottom=0)
    axis.set_xticks(range(len(CENTERED)), list(CENTERED))
    axis.set_xlim(-0.6, len(CENTERED) - 0.4)
    axis.legend(frameon=False, fontsize=8)
    label(axis, "test error on MNIST", "", "top-1 error (%)")
    save(figure, path)


def losses(results: Sequence[Result], system: str) -> dict[str, float]:
    """Mean test error by method, in percent; NaN where no seed lived."""
    return {
        method: mean_spread(found)[0]
        if (found := errors(results, dataset="mnist", system=system, method=method))
        else float("nan")
        for method in METHODS
    }


def findings(results: Sequence[Result]) -> list[Finding]:
    """Each system's gap to the feedforward network, cut in two."""
    limit = mean_spread(errors(results, dataset="mnist", system="feedforward"))[0]
    told: dict[str, Any] = {system: losses(results, system) for system in CENTERED}
    mine = {s: min(t["one-sided"], t["centered"]) - t["exact"] for s, t in told.items()}
    theirs = {s: t["exact"] - limit for s, t in told.items()}
    cells = [errors(results, dataset="mnist", system=s, method=m) for s in CENTERED for m in METHODS]
    spread = max(mean_spread(found)[1] for found in cells if found)
    parts = ", ".join(f"{s}: EP {mine[s]:+.2f}, system {theirs[s]:+.2f}" for s in CENTERED)
    return [
        Finding(
            "What stops EP in other systems is the systems, not EP",
            judged(all(loss <= max(spread, 0.3) for loss in mine.values())),
            f"points of test error, feedforward {limit:.2f}%: {parts}; largest spread of three seeds {spread:.2f}",
        ),
        Finding(
            "One-sided EP at a small beta, its differences carried, is as good as centered EP (ours)",
            judged(all(t["one-sided"] - t["centered"] <= max(spread, 0.3) for t in told.values())),
            ", ".join(f"{s}: {t['one-sided']:.2f} against {t['centered']:.2f}" for s, t in told.items()),
        ),
    ]
