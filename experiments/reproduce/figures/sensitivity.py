"""The error after training over beta and K; the same over beta and the number of sweeps.

The paper, on CIFAR-100 with VGG5: nothing changes for K >= 4 and 2e-4 <= beta <= 0.1.
"""

from collections.abc import Sequence
from pathlib import Path

from epjax.runs.config import Gradient
from experiments.reproduce.cell import Cell, Result
from experiments.reproduce.draw import canvas, heat, save
from experiments.reproduce.figure import NOISE, Finding, error, errors, judged, pick, size, vgg5, written

NAME = "sensitivity"
TITLE = "Sensitivity to beta and to the number of iterations"
BETAS = (1e-5, 2e-4, 0.02, 0.1, 0.5, 2.0)
ITERATIONS = (2, 3, 4, 6)
SWEEPS = (1, 2, 3)
FLAT = (2e-4, 0.02, 0.1)


def cells(quick: bool) -> list[Cell]:
    """Even/odd with errors recomputed from states, as the paper; sweeps with carried errors; backpropagation."""
    betas, iterations, sweeps = (BETAS[2:3], ITERATIONS[:1], SWEEPS[:1]) if quick else (BETAS, ITERATIONS, SWEEPS)
    found: list[Cell] = [vgg5({"method": "bp"}, Gradient(algorithm="bp"), quick=quick)]
    for beta in betas:
        for K in iterations:
            gradient = Gradient(beta=beta, iterations=K, errors="recomputed")
            found.append(vgg5({"method": "async", "K": K, "beta": beta}, gradient, quick=quick))
        for S in sweeps:
            gradient = Gradient(beta=beta, traversal="sweep", sweeps=S)
            found.append(vgg5({"method": "sweep", "S": S, "beta": beta}, gradient, quick=quick))
    return found


def draw(results: Sequence[Result], path: Path) -> None:
    """Two heat maps with one scale."""
    bp = written(error(pick(results, method="bp")[0]))
    what = f"{size(results)}; validation top-1 error (%), backpropagation {bp}; ×: diverged"
    flat = [e for r in _flat(results) if (e := error(r)) is not None]
    found = f"{min(flat):.0f} and {max(flat):.0f}%" if flat else ""
    title = f"For K >= 4 and beta from 2e-4 to 0.1 the error stays between {found}"
    figure, axes = canvas(title if flat else TITLE, what, (1, 2), (11, 4.4))
    reached = errors(results)
    limits = (min(reached), min(max(reached), 90.0)) if reached else (0.0, 100.0)
    for ax, method, y in ((axes[0, 0], "async", "K"), (axes[0, 1], "sweep", "S")):
        if pick(results, method=method):
            heat(ax, results, "beta", y, limits, method=method)
    axes[0, 0].set_title("even/odd, errors recomputed from states", loc="left", fontsize=9)
    axes[0, 1].set_title("sweeps, carried errors", loc="left", fontsize=9)
    save(figure, path)


def _flat(results: Sequence[Result]) -> list[Result]:
    """The runs in the region where the paper finds no change."""
    return [r for r in results if r["place"].get("K", 0) >= 4 and r["place"]["beta"] in FLAT]


def findings(results: Sequence[Result]) -> list[Finding]:
    """The spread inside the paper's flat region, and what lies around it."""
    inside = _flat(results)
    reached = [e for r in inside if (e := error(r)) is not None]
    bp = errors(results, method="bp")
    if not reached or not bp:
        return []
    spread = max(reached) - min(reached)
    flat = len(reached) == len(inside) and spread <= 4
    outside = {f"beta {b:g}": _of(results, [b], [K for K in ITERATIONS if K >= 4]) for b in BETAS if b not in FLAT}
    outside |= {f"K = {K}, beta in it": _of(results, FLAT, [K]) for K in ITERATIONS if K < 4}
    sweeps = {f"S = {S}": [e for beta in FLAT for e in errors(results, method="sweep", S=S, beta=beta)] for S in SWEEPS}
    ends = "; ".join(f"{where}: {min(v):.1f} to {max(v):.1f}" for where, v in outside.items() if v)
    worse = [max(v, default=100.0) > max(reached) + NOISE for v in outside.values()]
    return [
        Finding(
            "Nothing changes for K >= 4 and 2e-4 <= beta <= 0.1",
            judged(flat),
            f"{len(reached)} of {len(inside)} cells trained, errors {min(reached):.1f} to {max(reached):.1f} "
            f"(backpropagation {bp[0]:.1f}); one seed a cell",
        ),
        Finding(
            "It ends there: fewer iterations, a smaller beta and a greater one are worse",
            judged(all(worse)),
            f"{ends}; noise {NOISE:g} points",
        ),
        Finding(
            "(ours) One sweep is as flat as K >= 4 iterations",
            judged(
                bool(sweeps["S = 1"]) and len(sweeps["S = 1"]) == len(FLAT) and max(sweeps["S = 1"]) <= max(reached) + 1
            ),
            "; ".join(f"{k}: {min(v):.1f} to {max(v):.1f}" for k, v in sweeps.items() if v),
        ),
    ]


def _of(results: Sequence[Result], betas: Sequence[float], iterations: Sequence[int]) -> list[float]:
    """The errors of even/odd at these strengths and iterations; a run that diverged counts as 100."""
    found = [r for beta in betas for K in iterations for r in pick(results, method="async", beta=beta, K=K)]
    return [100.0 if (e := error(r)) is None else e for r in found]
