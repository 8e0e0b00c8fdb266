"""What a figure is: a grid of cells, a picture of their results, and what they say of the paper's claims."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any, Literal, Protocol

from scipy.stats import t

from epjax.runs.config import Gradient, Optimiser
from experiments.reproduce.cell import Cell, Images, Net, Result, Training, training

Verdict = Literal["confirmed", "not confirmed", "not testable at this size"]
BUDGET = 90
"""Minutes on two cores that the default settings of a figure stay within."""
NOISE = 2.5
"""Points of error within which one run says nothing beside another: what three seeds of VGG5 on CIFAR-10 spread."""
LEARNING_RATE = {"cross_entropy": 0.02, "squared_error": 0.04}


@dataclass(frozen=True)
class Finding:
    """A claim of the paper, what was found here, and the numbers that show it."""

    claim: str
    verdict: Verdict
    evidence: str


class Figure(Protocol):
    """One figure of the paper, as a module."""

    NAME: str
    TITLE: str

    def cells(self, quick: bool) -> Sequence[Cell]:
        """The grid; with `quick` a few cells that take seconds."""
        ...

    def draw(self, results: Sequence[Result], path: Path) -> None:
        """The picture."""
        ...

    def findings(self, results: Sequence[Result]) -> list[Finding]:
        """What the results say of the paper's claims."""
        ...


def vgg5(
    place: dict[str, Any],
    gradient: Gradient,
    dataset: str = "cifar10",
    *,
    quick: bool = False,
    images: int = 3000,
    epochs: int = 3,
    batch_size: int = 16,
    seed: int = 0,
    curve: bool = False,
) -> Training:
    """A narrow VGG5 with the paper's weight decay, gain 1.4, a cosine over few epochs; `curve` evaluates each.

    Small batches, because a run of few images must still have some hundred steps. The learning rate of the squared
    error, 0.04, is the paper's, that of cross-entropy twice the paper's 0.01: at either cost what learned fastest by
    backpropagation, 9,000 images of CIFAR-10. At gain 2 the squared error stays at chance or diverges, by
    backpropagation too.
    """
    epochs = 1 if quick else epochs
    return training(
        place,
        seed,
        eval_every=1 if curve else epochs,
        gradient=gradient,
        optimiser=Optimiser(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=LEARNING_RATE[gradient.cost],
            final_learning_rate=1e-6,
            weight_decay=3e-4,
            cosine="step",
        ),
        network=Net(width=1 / 64 if quick else 1 / 16, gain=1.4),
        images=Images(dataset, 32 if quick else images, 32 if quick else None),
    )


def error(result: Result) -> float | None:
    """The last top-1 error in percent, the mean where a cell holds several seeds; None where the run diverged."""
    return None if result["diverged"] else statistics.mean(of_seeds(result))


def of_seeds(result: Result) -> list[float]:
    """The last top-1 error of each seed that the cell holds."""
    lines = result["evaluations"]
    last = {line.get("seed"): line["val_top1_error"] for line in lines}
    return list(last.values())


def pick(results: Iterable[Result], **place: Any) -> list[Result]:
    """The results at these coordinates."""
    return [r for r in results if all(r["place"].get(name) == value for name, value in place.items())]


def errors(results: Iterable[Result], **place: Any) -> list[float]:
    """The errors of the runs at these coordinates that did not diverge."""
    return [e for r in pick(results, **place) if not r["diverged"] for e in of_seeds(r)]


def mean_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 of one value)."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Mean of paired differences and half of its 95% interval, by Student's t; 0 of one value."""
    mean, spread = mean_spread(differences)
    n = len(differences)
    return mean, float(t.ppf(0.975, n - 1)) * spread / sqrt(n) if n > 1 else 0.0


def gap(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Mean of the differences, seed by seed, and half of its 95% interval; NaN where a seed is missing."""
    if not ours or len(ours) != len(theirs):
        return float("nan"), float("nan")
    return interval([a - b for a, b in zip(ours, theirs, strict=True)])


def written(value: float | None) -> str:
    """An error for a table."""
    return "diverged" if value is None else f"{value:.1f}"


def judged(holds: bool | None) -> Verdict:
    """None: it cannot be judged."""
    return "not testable at this size" if holds is None else "confirmed" if holds else "not confirmed"


def size(results: Sequence[Result]) -> str:
    """What was run, at what size, in a line; runs of several sizes one after the other."""
    kinds: dict[tuple[Any, ...], list[Result]] = {}
    for r in results:
        kinds.setdefault(tuple(r["config"][name] for name in SIZE), []).append(r)
    seeds = len({r["config"]["seed"] for r in results})
    return f"{'; '.join(map(_size, kinds.values()))}, {seeds} seed{'s' * (seeds > 1)}, float32"


SIZE = ("kind", "width", "image_size", "gain", "train_images", "epochs")
"""Options by which runs differ in size."""


def _size(results: Sequence[Result]) -> str:
    c = results[0]["config"]
    pixels, images = c["image_size"], f"{c['train_images']:,} training images"
    validation = sorted({r["evaluations"][-1]["val_images"] for r in results if r["evaluations"]})
    if validation:
        images += f" and {' or '.join(f'{count:,}' for count in validation)} validation images"
    names = sorted({r["config"]["dataset"] for r in results})
    network = {"vgg5": "VGG5", "vgg10": "VGG10", "vgg10_skip": "VGG10"}[c["kind"]]
    return (
        f"{network} of width {c['width']:g} at {pixels}x{pixels}, gain {c['gain']:g}, {images} of {', '.join(names)}, "
        f"{c['epochs']} epochs"
    )
