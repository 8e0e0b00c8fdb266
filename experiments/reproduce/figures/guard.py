"""A beta that is far too large, with and without the guard that lowers it example by example.

VGG5 on CIFAR-10 as in the study of sensitivity, centered EP by one sweep with carried errors. `--beta-guard 0.05` lets
a nudge move an output by a twentieth of its norm at most. (ours)
"""

from collections.abc import Sequence
from pathlib import Path

from epjax.runs.config import Gradient
from epjax.style import ALGORITHMS
from experiments.reproduce.cell import Cell, Result
from experiments.reproduce.draw import canvas, dots, save
from experiments.reproduce.figure import Finding, errors, judged, mean_spread, size, vgg5

NAME = "guard"
TITLE = "A guard of beta"
BETAS = (5e-4, 0.5, 2.0)
GUARDS = {"EP": None, "EP, guarded": 0.05}
BACKPROPAGATION = "backpropagation"
SEEDS = (0, 1, 2)


def cells(quick: bool) -> list[Cell]:
    """Seed by seed: backpropagation, then each beta with and without the guard."""
    found: list[Cell] = []
    for seed in SEEDS[:1] if quick else SEEDS:
        place = {"method": BACKPROPAGATION, "beta": "", "seed": seed}
        found.append(vgg5(place, Gradient(algorithm="bp", traversal="sweep"), quick=quick, seed=seed))
        for beta in BETAS[-1:] if quick else BETAS:
            for method, guard in GUARDS.items():
                gradient = Gradient(beta=beta, beta_guard=guard, traversal="sweep")
                found.append(vgg5({"method": method, "beta": beta, "seed": seed}, gradient, quick=quick, seed=seed))
    return found


def of(results: Sequence[Result], method: str, beta: float) -> list[float]:
    """The last errors of the runs that did not diverge."""
    return errors(results, method=method, beta=beta)


def draw(results: Sequence[Result], path: Path) -> None:
    """A dot a seed for each beta, with and without the guard; dashed: backpropagation."""
    largest = BETAS[-1]
    ends = [mean_spread(found)[0] for method in GUARDS if (found := of(results, method, largest))]
    title = TITLE
    if len(ends) == len(GUARDS):
        title = f"At beta {largest:g} training ends at {ends[0]:.0f}%, with the guard at {ends[1]:.0f}%"
    figure, axes = canvas(title, f"{size(results)}, centered, one sweep; guard 0.05")
    series = {method: [of(results, method, beta) for beta in BETAS] for method in GUARDS}
    bp = errors(results, method=BACKPROPAGATION)
    groups = [f"beta {beta:g}" for beta in BETAS]
    dots(axes[0, 0], groups, series, "validation top-1 error (%)")
    if bp:
        look = ALGORITHMS["bp"].of_line()
        axes[0, 0].axhline(mean_spread(bp)[0], **look, linewidth=1, label=BACKPROPAGATION)
        axes[0, 0].legend(frameon=False, fontsize=8)
    save(figure, path)


def findings(results: Sequence[Result]) -> list[Finding]:
    """What the guard rescues, and that it leaves alone what needs no rescue."""
    bp = errors(results, method=BACKPROPAGATION)
    told = {(m, b): of(results, m, b) for m in GUARDS for b in BETAS}
    if not bp or not all(told.values()):
        return []
    means = {where: mean_spread(found) for where, found in told.items()}
    noise = max(spread for _, spread in [mean_spread(bp), *means.values()])
    parts = "; ".join(
        f"beta {b:g}: {means['EP', b][0]:.1f} ± {means['EP', b][1]:.1f} without, "
        f"{means['EP, guarded', b][0]:.1f} ± {means['EP, guarded', b][1]:.1f} with"
        for b in BETAS
    )
    evidence = f"{parts}; backpropagation {mean_spread(bp)[0]:.1f} ± {mean_spread(bp)[1]:.1f}; {len(bp)} seeds"
    large, small = BETAS[-1], BETAS[0]
    rescued = means["EP", large][0] - means["EP, guarded", large][0] > max(5.0, noise)
    near = means["EP, guarded", large][0] - mean_spread(bp)[0] <= max(2.5, noise)
    return [
        Finding("The guard rescues a beta at which training fails (ours)", judged(rescued and near), evidence),
        Finding(
            f"At beta {small:g} the guard changes nothing that matters (ours)",
            judged(abs(means["EP, guarded", small][0] - means["EP", small][0]) <= max(1.0, noise)),
            evidence,
        ),
    ]
