"""PGD against mod-PGD over the number of even/odd iterations.

The paper: PGD with K = 5 diverges on CIFAR-10, where mod-PGD with K = 5 trains.
"""

from collections.abc import Sequence
from pathlib import Path

from epjax.runs.config import Gradient
from epjax.style import ALGORITHMS
from experiments.reproduce.cell import Cell, Result
from experiments.reproduce.draw import canvas, over, save
from experiments.reproduce.figure import Finding, error, judged, pick, size, vgg5, written

NAME = "update"
TITLE = "Updates: PGD against mod-PGD"
ITERATIONS = (3, 4, 5, 6, 8)
UPDATES = {"mod-PGD": {"update": "mod_pgd"}, "PGD": {"update": "pgd"}}


def cells(quick: bool) -> list[Cell]:
    """Even/odd at full steps, errors recomputed from states, beta 0.02, both updates."""
    found: list[Cell] = [vgg5({"update": "bp"}, Gradient(algorithm="bp"), quick=quick)]
    for K in ITERATIONS[:1] if quick else ITERATIONS:
        for place in UPDATES.values():
            gradient = Gradient(iterations=K, beta=0.02, errors="recomputed", update=place["update"])  # type: ignore[arg-type]
            found.append(vgg5({**place, "K": K}, gradient, quick=quick))
    return found


def draw(results: Sequence[Result], path: Path) -> None:
    """The error over K."""
    bp = error(pick(results, update="bp")[0])
    ends = {name: written(_at(results, 5, place)) for name, place in UPDATES.items()}
    title = "With K = 5 iterations " + ", ".join(f"{name} ends at {end}%" for name, end in ends.items())
    figure, axes = canvas(title, f"{size(results)}, even/odd, beta 0.02; ×: diverged")
    over(axes[0, 0], results, "K", UPDATES, "validation top-1 error (%)")
    if bp is not None:
        axes[0, 0].axhline(bp, **ALGORITHMS["bp"].of_line(), linewidth=1, label="backpropagation")
    axes[0, 0].legend(frameon=False, fontsize=8)
    save(figure, path)


def _at(results: Sequence[Result], K: int, place: dict[str, str]) -> float | None:
    found = pick(results, K=K, **place)
    return error(found[0]) if found else None


def findings(results: Sequence[Result]) -> list[Finding]:
    """K = 5."""
    at = {name: error(pick(results, K=5, **place)[0]) for name, place in UPDATES.items() if pick(results, K=5, **place)}
    if len(at) < len(UPDATES):
        return []
    mod, pgd = at["mod-PGD"], at["PGD"]
    return [
        Finding(
            "PGD with K = 5 diverges on CIFAR-10, mod-PGD with K = 5 trains",
            judged(mod is not None and (pgd is None or pgd > 85)),
            f"K = 5: mod-PGD {written(mod)}, PGD {written(pgd)}",
        )
    ]
