"""EP and backpropagation by batch size."""

from collections.abc import Sequence
from pathlib import Path

from epjax.runs.config import Gradient
from experiments.reproduce.cell import Cell, Result
from experiments.reproduce.draw import canvas, label, lines, save
from experiments.reproduce.figure import Finding, errors, judged, pick, size, vgg5

NAME = "batch-size"
TITLE = "Batch size: equilibrium propagation beside backpropagation"
BATCHES = (16, 64, 256)
ALGORITHMS = {"EP": "ep", "backpropagation": "bp"}


def cells(quick: bool) -> list[Cell]:
    """One learning rate for every batch size, and a curve."""
    found: list[Cell] = []
    for batch in BATCHES[:1] if quick else BATCHES:
        for algorithm in ALGORITHMS.values():
            gradient = Gradient(algorithm=algorithm, traversal="sweep", beta=0.02)  # type: ignore[arg-type]
            place = {"batch": batch, "algorithm": algorithm}
            found.append(vgg5(place, gradient, quick=quick, images=5120, epochs=6, batch_size=batch, curve=True))
    return found


def draw(results: Sequence[Result], path: Path) -> None:
    """A panel a batch size."""
    batches = [b for b in BATCHES if pick(results, batch=b)]
    gaps = [b - e for e, b in _ends(results).values()]
    title = f"EP ends {-max(gaps):+.1f} to {-min(gaps):+.1f} points from backpropagation" if gaps else TITLE
    figure, axes = canvas(title, size(results), (1, len(batches)), (11, 4))
    for ax, batch in zip(axes[0], batches, strict=True):
        lines(ax, pick(results, batch=batch), lambda r: {v: k for k, v in ALGORITHMS.items()}[r["place"]["algorithm"]])
        label(ax, f"batch {batch}", "epoch", "validation top-1 error (%)" if ax is axes[0, 0] else "")
        ax.set_ylim(*_limits(results))
    save(figure, path)


def _limits(results: Sequence[Result]) -> tuple[float, float]:
    values = [line["val_top1_error"] for r in results for line in r["evaluations"]]
    return min(values) - 2, max(values) + 2


def _ends(results: Sequence[Result]) -> dict[int, tuple[float, float]]:
    """The last errors of EP and backpropagation by batch size."""
    gaps = {}
    for batch in BATCHES:
        ep, bp = (errors(results, batch=batch, algorithm=a) for a in ALGORITHMS.values())
        if ep and bp:
            gaps[batch] = (ep[0], bp[0])
    return gaps


def findings(results: Sequence[Result]) -> list[Finding]:
    """The two curves end together at every batch size."""
    gaps = _ends(results)
    if not gaps:
        return []
    evidence = ", ".join(f"batch {b}: {ep:.1f} / {bp:.1f}" for b, (ep, bp) in gaps.items())
    holds = all(ep <= bp + 2 for ep, bp in gaps.values())
    claim = "EP follows backpropagation at every batch size"
    return [Finding(claim, judged(holds), f"EP / backpropagation, one seed: {evidence}")]
