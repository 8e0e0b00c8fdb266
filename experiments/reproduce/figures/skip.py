"""VGG10 against VGG10Skip, by EP and by backpropagation.

The paper, ImageNet at 224, top-5 error: VGG10 13.23 / 12.20, VGG10Skip 13.32 / 12.1 (EP / backpropagation): the skip
connections neither help nor hurt, and EP trains them.
"""

from collections.abc import Sequence
from pathlib import Path

from epjax.runs.config import Gradient, Optimiser
from experiments.reproduce.cell import Cell, Images, Net, Result, training
from experiments.reproduce.draw import canvas, differences, label, lines, save
from experiments.reproduce.figure import Finding, errors, gap, judged, mean_spread, pick, size

NAME = "skip"
TITLE = "Skip connections: VGG10 and VGG10Skip"
NETWORKS = {"VGG10": "vgg10", "VGG10Skip": "vgg10_skip"}
METHODS = {
    "EP, beta 0.05": Gradient(traversal="sweep", beta=0.05),
    "EP, beta 5e-4": Gradient(traversal="sweep", beta=5e-4),
    "backpropagation": Gradient(algorithm="bp", traversal="sweep", beta=0.05),
}
"""The paper's strength, the default where errors are carried, and what EP is compared with."""
SEEDS = (0, 1, 2)


def cells(quick: bool) -> list[Cell]:
    """Width 1/8, the paper's weight decay and learning rate, one sweep; seed by seed."""
    found: list[Cell] = []
    for seed in SEEDS[:1] if quick else SEEDS:
        for network in NETWORKS.values():
            for method, gradient in METHODS.items():
                found.append(
                    training(
                        {"network": network, "method": method, "seed": seed},
                        seed,
                        gradient=gradient,
                        optimiser=Optimiser(
                            epochs=1 if quick else 6, batch_size=16 if quick else 64, learning_rate=0.02, cosine="step"
                        ),
                        network=Net(network, width=1 / 64 if quick else 1 / 8, dense=16 if quick else 512),  # type: ignore[arg-type]
                        images=Images("tiny_imagenet_20", 32 if quick else 10_000, 32 if quick else None, 64),
                    )
                )
    return found


def gaps(results: Sequence[Result], network: str, method: str) -> tuple[float, float]:
    """EP minus backpropagation: mean, and half of its 95% interval."""
    ours, theirs = (errors(results, network=network, method=m) for m in (method, "backpropagation"))
    return gap(ours, theirs)


def told(results: Sequence[Result], method: str) -> str:
    """The gaps of both networks in words."""
    return ", ".join("{} {:+.1f} ± {:.1f}".format(title, *gaps(results, n, method)) for title, n in NETWORKS.items())


def draw(results: Sequence[Result], path: Path) -> None:
    """A panel a network: a line a seed; then the gaps."""
    figure, axes = canvas(
        f"EP minus backpropagation, points: {told(results, 'EP, beta 5e-4')}",
        f"{size(results)}, one sweep; the title is for beta 5e-4, with its 95% interval over seeds",
        (1, 3),
        (13, 4),
    )
    for ax, (title, network) in zip(axes[0], NETWORKS.items(), strict=False):
        lines(ax, pick(results, network=network), lambda r: r["place"]["method"])
        label(ax, title, "epoch", "validation top-1 error (%)" if ax is axes[0, 0] else "")
    ours = [m for m in METHODS if m != "backpropagation"]
    places = [(n, m) for n in NETWORKS.values() for m in ours]
    names = [f"{title}\n{m.removeprefix('EP, ')}" for title in NETWORKS for m in ours]
    pairs = [
        (errors(results, network=n, method=m), errors(results, network=n, method="backpropagation")) for n, m in places
    ]
    differences(axes[0, 2], names, pairs, "EP minus backpropagation (points)")
    save(figure, path)


def findings(results: Sequence[Result]) -> list[Finding]:
    """EP trains both networks as backpropagation does: the intervals of its gaps reach zero or below."""
    means = {
        (t, m): mean_spread(e)
        for t, n in NETWORKS.items()
        for m in METHODS
        if (e := errors(results, network=n, method=m))
    }
    if len(means) < len(NETWORKS) * len(METHODS):
        return []
    found, seeds = [], ", ".join(str(seed) for seed in sorted({r["place"]["seed"] for r in results}))
    for method in METHODS:
        if method == "backpropagation":
            continue
        behind = [gaps(results, n, method) for n in NETWORKS.values()]
        parts = "; ".join(
            f"{t}: {means[t, method][0]:.1f} ± {means[t, method][1]:.1f} / "
            f"{means[t, 'backpropagation'][0]:.1f} ± {means[t, 'backpropagation'][1]:.1f}"
            for t in NETWORKS
        )
        found.append(
            Finding(
                f"EP trains VGG10Skip and VGG10 as backpropagation does ({method.removeprefix('EP, ')})",
                judged(all(mean - half <= 0 for mean, half in behind)),
                f"top-1 error, EP / backpropagation, seeds {seeds}: {parts}; paired gap with 95% interval:"
                f" {told(results, method)}",
            )
        )
    return found
