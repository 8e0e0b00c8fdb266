"""Nudging by cross-entropy, nudging by squared error, clamping: each with the four schemes.

The paper, on ImageNet32 with VGG5: cross-entropy nudging is far better than the other two except with the forward
scheme, and the random and backward schemes are close to the centered one.
"""

from collections.abc import Sequence
from pathlib import Path

from epjax.runs.config import Gradient
from experiments.reproduce.cell import Cell, Result
from experiments.reproduce.draw import canvas, dots, save
from experiments.reproduce.figure import Finding, errors, judged, mean_spread, size, vgg5

NAME = "schemes"
TITLE = "Schemes: which perturbation, which sign"
SCHEMES = ("forward", "backward", "random", "centered")
PERTURBATIONS = {
    "nudging, cross-entropy": {"cost": "cross_entropy", "perturbation": "nudge"},
    "nudging, squared error": {"cost": "squared_error", "perturbation": "nudge"},
    "clamping": {"cost": "squared_error", "perturbation": "clamp"},
}
SEEDS = (0, 1, 2)


def cells(quick: bool) -> list[Cell]:
    """The paper's equilibration, K = 5 even/odd iterations, with every perturbation, scheme and seed."""
    found: list[Cell] = []
    for seed in SEEDS[:1] if quick else SEEDS:
        for perturbation, options in PERTURBATIONS.items():
            for scheme in SCHEMES[-1:] if quick else SCHEMES:
                gradient = Gradient(scheme=scheme, beta=0.02, iterations=5, errors="recomputed", **options)  # type: ignore[arg-type]
                place = {"perturbation": perturbation, "scheme": scheme, "seed": seed}
                found.append(vgg5(place, gradient, "tiny_imagenet_20", quick=quick, images=4000, seed=seed))
    return found


def draw(results: Sequence[Result], path: Path) -> None:
    """A dot a seed for each perturbation and scheme."""
    entropy = [errors(results, perturbation="nudging, cross-entropy", scheme=s) for s in SCHEMES]
    means = [mean_spread(found)[0] for found in entropy if found]
    title = f"Nudging by cross-entropy ends at {min(means):.0f} to {max(means):.0f}% with any of four schemes"
    figure, axes = canvas(title, size(results) + ", K = 5, beta 0.02; a dot a seed, a stroke for their mean")
    series = {name: [errors(results, perturbation=name, scheme=s) for s in SCHEMES] for name in PERTURBATIONS}
    dots(axes[0, 0], SCHEMES, series, "validation top-1 error (%)")
    save(figure, path)


def findings(results: Sequence[Result]) -> list[Finding]:
    """Cross-entropy against the others; random and backward against centered."""
    names = list(PERTURBATIONS)

    def of(perturbation: str, scheme: str) -> tuple[float, float]:
        found = errors(results, perturbation=perturbation, scheme=scheme)
        return mean_spread(found) if found else (100.0, 0.0)

    best = {s: [of(name, s) for name in names] for s in SCHEMES}
    evidence = "; ".join(f"{s}: " + " / ".join(f"{mean:.1f}" for mean, _ in best[s]) for s in SCHEMES)
    others = [s for s in SCHEMES if s != "forward"]
    lead = {s: min(best[s][1], best[s][2])[0] - best[s][0][0] for s in others}
    noise = {s: max(1.0, *(spread for _, spread in best[s])) for s in others}
    # A lead within the spread over seeds says nothing, for or against.
    visible = all(lead[s] > noise[s] for s in others) or any(lead[s] < -noise[s] for s in others)
    better = all(lead[s] > noise[s] for s in others) if visible else None
    near = {s: best[s][0][0] - best["centered"][0][0] for s in ("random", "backward")}
    within = all(d <= max(1.0, 2 * best["centered"][0][1]) for d in near.values())
    return [
        Finding(
            "Cross-entropy nudging beats squared-error nudging and clamping with every scheme but the forward one",
            judged(better),
            f"top-1 error, cross-entropy / squared error / clamping: {evidence}; spread over seeds up to "
            f"{max(spread for s in others for _, spread in best[s]):.1f}",
        ),
        Finding(
            "With cross-entropy nudging the random and the backward scheme are close to the centered one",
            judged(within),
            ", ".join(f"{s} {d:+.1f} points" for s, d in near.items()) + f"; centered {best['centered'][0][0]:.1f}",
        ),
    ]
