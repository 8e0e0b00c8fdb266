"""VGG10 against VGG10Skip, by EP and by backpropagation.

The paper, ImageNet at 224, top-5 error: VGG10 13.23 / 12.20, VGG10Skip 13.32 / 12.1 (EP / backpropagation): the skip
connections neither help nor hurt, and EP trains them.
"""

from collections.abc import Sequence
from pathlib import Path

from epjax.runs.config import Gradient, Optimiser
from experiments.reproduce.cell import Cell, Images, Net, Result, training
from experiments.reproduce.draw import canvas, label, lines, save
from experiments.reproduce.figure import Finding, errors, judged, mean_spread, pick, size

NAME = "skip"
TITLE = "Skip connections: VGG10 and VGG10Skip"
NETWORKS = {"VGG10": "vgg10", "VGG10Skip": "vgg10_skip"}
ALGORITHMS = {"EP": "ep", "backpropagation": "bp"}


def cells(quick: bool) -> list[Cell]:
    """Width 1/8, the paper's weight decay and learning rate, one sweep, beta 0.05."""
    found: list[Cell] = []
    for network in NETWORKS.values():
        for algorithm in ALGORITHMS.values():
            found.append(
                training(
                    {"network": network, "algorithm": algorithm},
                    gradient=Gradient(algorithm=algorithm, traversal="sweep", beta=0.05),  # type: ignore[arg-type]
                    optimiser=Optimiser(
                        epochs=1 if quick else 6, batch_size=16 if quick else 64, learning_rate=0.02, cosine="step"
                    ),
                    network=Net(network, width=1 / 64 if quick else 1 / 8, dense=16 if quick else 512),  # type: ignore[arg-type]
                    images=Images("tiny_imagenet_20", 32 if quick else 10_000, 32 if quick else None, 64),
                )
            )
    return found


def draw(results: Sequence[Result], path: Path) -> None:
    """A panel a network."""
    gaps = {
        title: mean_spread(errors(results, network=n, algorithm="ep"))[0]
        - mean_spread(errors(results, network=n, algorithm="bp"))[0]
        for title, n in NETWORKS.items()
        if errors(results, network=n, algorithm="ep") and errors(results, network=n, algorithm="bp")
    }
    said = ", ".join(f"{gap:+.1f} points in {title}" for title, gap in gaps.items())
    figure, axes = canvas(
        f"EP minus backpropagation: {said}" if gaps else TITLE,
        f"{size(results)}, one sweep, beta 0.05",
        (1, 2),
        (9.6, 4),
    )
    for ax, (title, network) in zip(axes[0], NETWORKS.items(), strict=True):
        lines(
            ax, pick(results, network=network), lambda r: {v: k for k, v in ALGORITHMS.items()}[r["place"]["algorithm"]]
        )
        label(ax, title, "epoch", "validation top-1 error (%)" if ax is axes[0, 0] else "")
    save(figure, path)


def findings(results: Sequence[Result]) -> list[Finding]:
    """EP trains the network with skips as backpropagation does."""
    at = {(n, a): errors(results, network=n, algorithm=a) for n in NETWORKS.values() for a in ALGORITHMS.values()}
    if not all(at.values()):
        return []
    values = {k: v[0] for k, v in at.items()}
    holds = all(values[n, "ep"] <= values[n, "bp"] + 2 for n in NETWORKS.values())
    evidence = ", ".join(f"{title}: {values[n, 'ep']:.1f} / {values[n, 'bp']:.1f}" for title, n in NETWORKS.items())
    return [
        Finding(
            "EP trains VGG10Skip as well as VGG10, beside backpropagation",
            judged(holds),
            f"top-1 error, EP / backpropagation, one seed: {evidence}",
        )
    ]
