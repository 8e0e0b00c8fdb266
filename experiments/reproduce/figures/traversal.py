"""Step size, number of iterations, and order: synchronous, even/odd, sweeps.

The paper: even/odd with step size 1 beats smaller steps and the synchronous traversal.
"""

from collections.abc import Sequence
from pathlib import Path

from epjax.runs.config import Gradient
from experiments.reproduce.cell import Cell, Result
from experiments.reproduce.draw import canvas, heat, save
from experiments.reproduce.figure import NOISE, Finding, error, errors, judged, pick, size, vgg5, written

NAME = "traversal"
TITLE = "Traversals: step size and number of iterations"
STEPS = (0.1, 0.5, 1.0)
ITERATIONS = (3, 6, 12)
SWEEPS = (1, 2, 3)


def cells(quick: bool) -> list[Cell]:
    """PGD, which has a step size; mod-PGD and sweeps have none."""
    found: list[Cell] = [vgg5({"method": "bp"}, Gradient(algorithm="bp"), quick=quick, images=2000)]
    for traversal in ("async", "sync"):
        for K in ITERATIONS[:1] if quick else ITERATIONS:
            for alpha in STEPS[-1:] if quick else STEPS:
                gradient = Gradient(
                    traversal=traversal,  # type: ignore[arg-type]
                    iterations=K,
                    step_size=alpha,
                    update="pgd",
                    beta=0.02,
                    errors="recomputed",
                )
                found.append(vgg5({"method": traversal, "K": K, "alpha": alpha}, gradient, quick=quick, images=2000))
    for S in SWEEPS[:1] if quick else SWEEPS:
        gradient = Gradient(traversal="sweep", sweeps=S, beta=0.02, update="pgd")
        found.append(vgg5({"method": "sweep", "S": S}, gradient, quick=quick, images=2000))
    return found


def draw(results: Sequence[Result], path: Path) -> None:
    """A heat map for each iterative traversal; sweeps and backpropagation in words."""
    sweeps = ", ".join(f"{r['place']['S']}: {written(error(r))}" for r in pick(results, method="sweep"))
    bp = written(error(pick(results, method="bp")[0]))
    what = f"PGD, beta 0.02; validation top-1 error (%), ×: diverged\nsweeps {sweeps}; backpropagation {bp}"
    subtitle = f"{size(results)}, {what}"
    best = [min(errors(results, method=method), default=float("nan")) for method in ("async", "sync")]
    title = "The best of nine settings: even/odd {:.1f}%, synchronous {:.1f}%".format(*best)
    figure, axes = canvas(title, subtitle, (1, 2), (9.6, 4.4))
    reached = errors(results)
    limits = (min(reached), 90.0) if reached else (0.0, 100.0)
    for ax, method, title in ((axes[0, 0], "async", "even/odd"), (axes[0, 1], "sync", "synchronous")):
        if pick(results, method=method):
            heat(ax, results, "alpha", "K", limits, method=method)
        ax.set_title(title, loc="left", fontsize=9)
    save(figure, path)


def findings(results: Sequence[Result]) -> list[Finding]:
    """Even/odd at full steps against all else, at K = L."""
    K = ITERATIONS[1]
    at = {(m, a): errors(results, method=m, K=K, alpha=a) for m in ("async", "sync") for a in STEPS}
    if not at["async", 1.0]:
        return []
    best = at["async", 1.0][0]
    others = {k: v[0] if v else None for k, v in at.items() if k != ("async", 1.0)}
    ahead = [100.0 if v is None else v - best for v in others.values()]
    names = {"async": "even/odd", "sync": "synchronous"}
    evidence = ", ".join(f"{names[m]} alpha {a:g}: {written(v)}" for (m, a), v in others.items())
    one = errors(results, method="sweep", S=1)
    return [
        Finding(
            "Even/odd with step size 1 beats smaller steps and the synchronous traversal",
            judged(True if min(ahead) > NOISE else False if min(ahead) < -NOISE else None),
            f"K = {K}: even/odd alpha 1: {best:.1f}; {evidence}; one seed a cell, noise {NOISE:g} points",
        ),
        Finding(
            "(ours) One sweep does as well as even/odd at K = L",
            judged(bool(one) and one[0] <= best + 2),
            f"one sweep {written(one[0] if one else None)}, even/odd K = {K} {best:.1f}; one seed a cell",
        ),
    ]
