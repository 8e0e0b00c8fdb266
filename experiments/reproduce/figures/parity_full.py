"""Parity run to the end of the cosine: EP as the recipes have it, EP at the paper's beta, and backpropagation.

VGG10 of width 1/4 on 20 classes of Tiny ImageNet at 64x64, 20 epochs, and VGG5 of width 1/8 on all of CIFAR-10, ten
epochs. The paper's gap on ImageNet, 13.23 against 12.20 (top-5 error, EP at beta 0.05 / backpropagation), is the
question: does a smaller beta with carried errors close it?
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Literal

from epjax.runs.config import Gradient, Optimiser
from epjax.runs.plots import dress, seeds
from epjax.runs.records import Run
from epjax.runs.seeds import Group
from epjax.style import looks
from experiments.reproduce.cell import Cell, Images, Net, Result, training
from experiments.reproduce.draw import canvas, differences, label, save
from experiments.reproduce.figure import Finding, errors, gap, judged, mean_spread, pick, size

NAME = "parity-full"
TITLE = "Parity to the end of the schedule: EP beside backpropagation"
DEFAULT, PAPER, BACKPROPAGATION = "EP, beta 5e-4", "EP, beta 0.05", "backpropagation"
METHODS = {
    BACKPROPAGATION: Gradient(algorithm="bp", traversal="sweep"),
    DEFAULT: Gradient(beta=5e-4, traversal="sweep"),
    PAPER: Gradient(beta=0.05, traversal="sweep"),
}
"""EP is centered, by one sweep, with carried errors."""
SEEDS = (0, 1, 2)
LAST_STEPS = 100
"""Training steps over which the cost at the end is averaged, for the gap of generalisation."""


@dataclass(frozen=True)
class Setting:
    """A network, its data, and how long it is trained, by which methods."""

    title: str
    kind: Literal["vgg5", "vgg10"]
    width: float
    train_images: int
    image_size: int
    epochs: int
    weight_decay: float
    methods: tuple[str, ...] = tuple(METHODS)


SETTINGS = {
    "tiny_imagenet_20": Setting("VGG10, Tiny ImageNet (20 classes)", "vgg10", 1 / 4, 10_000, 64, 20, 2e-4),
    "cifar10": Setting("VGG5, CIFAR-10", "vgg5", 1 / 8, 50_000, 32, 10, 3e-4, (BACKPROPAGATION, DEFAULT)),
}


def cell(dataset: str, method: str, seed: int, quick: bool) -> Cell:
    """A run of batches of 64 at a learning rate of 0.02 with the cosine, at gain 2."""
    s = SETTINGS[dataset]
    return training(
        {"dataset": dataset, "method": method, "seed": seed},
        seed,
        gradient=METHODS[method],
        optimiser=Optimiser(
            epochs=1 if quick else s.epochs,
            batch_size=16 if quick else 64,
            learning_rate=0.02,
            final_learning_rate=2e-6,
            weight_decay=s.weight_decay,
            cosine="step",
        ),
        network=Net(s.kind, 1 / 64 if quick else s.width, gain=2.0, dense=16 if quick else 2048),
        images=Images(dataset, 32 if quick else s.train_images, 32 if quick else None, s.image_size),
    )


def cells(quick: bool) -> list[Cell]:
    """Seed by seed, so that a part of the grid compares the methods."""
    return [
        cell(dataset, method, seed, quick)
        for seed in (SEEDS[:1] if quick else SEEDS)
        for dataset, setting in SETTINGS.items()
        for method in (setting.methods[:2] if quick else setting.methods)
    ]


def gap_of(results: Sequence[Result], dataset: str, method: str) -> tuple[float, float]:
    """EP minus backpropagation: mean, and half of its 95% interval."""
    return gap(*(errors(results, dataset=dataset, method=m) for m in (method, BACKPROPAGATION)))


def generalisation(result: Result) -> float:
    """Validation cost minus the training cost (of augmented images) of the last steps."""
    lines = result["training"]
    last = [line["cost"] for line in lines if line["step"] > lines[-1]["step"] - LAST_STEPS]
    return float(result["evaluations"][-1].get("val_cost", float("nan"))) - mean(last)


def compared() -> list[tuple[str, str]]:
    """Every data set with every method of EP."""
    return [(d, m) for d, s in SETTINGS.items() for m in s.methods if m != BACKPROPAGATION]


def draw(results: Sequence[Result], path: Path) -> None:
    """Error against epochs with the spread over seeds, a panel a data set; then the gaps at the end."""
    words = ", ".join(
        "{} {:+.1f} ± {:.1f}".format(SETTINGS[d].kind.upper(), *gap_of(results, d, DEFAULT)) for d in SETTINGS
    )
    how = "centered EP, one sweep, carried errors; the title is for beta 5e-4, with 95% intervals"
    figure, axes = canvas(
        f"EP minus backpropagation, points of error: {words}", f"{size(results)}\n{how}", (1, 3), (13, 4.4)
    )
    for axis, (dataset, setting) in zip(axes[0], SETTINGS.items(), strict=False):
        for method, look in zip(setting.methods, looks(setting.methods), strict=True):
            alive = [r for r in pick(results, dataset=dataset, method=method) if not r["diverged"]]
            runs = tuple(Run(path, r["config"], r["evaluations"], {}, {}) for r in alive)
            if runs:
                seeds(axis, Group(runs, method), "epoch", "val_top1_error", look, label=method)
        dress(axis)
        axis.legend(frameon=False, fontsize=8)
        label(axis, setting.title, "epoch", "validation top-1 error (%)" if axis is axes[0, 0] else "")
    places = compared()
    names = [f"{SETTINGS[d].kind.upper()}\n{m.removeprefix('EP, ')}" for d, m in places]
    pairs = [
        (errors(results, dataset=d, method=m), errors(results, dataset=d, method=BACKPROPAGATION)) for d, m in places
    ]
    differences(axes[0, 2], names, pairs, "EP minus backpropagation (points)")
    save(figure, path)


def findings(results: Sequence[Result]) -> list[Finding]:
    """EP ends where backpropagation does: the 95% interval of its gap reaches zero or below."""
    found = []
    for dataset, method in compared():
        runs = {m: pick(results, dataset=dataset, method=m) for m in (method, BACKPROPAGATION)}
        alive = {m: [r for r in rs if not r["diverged"]] for m, rs in runs.items()}
        if not all(alive.values()):
            continue
        middle, half = gap_of(results, dataset, method)
        told = "; ".join(
            "{}: {:.1f} ± {:.1f}, validation minus training cost {:+.2f}, {:.0f} minutes a run".format(
                m,
                *mean_spread(errors(rs)),
                mean(generalisation(r) for r in rs),
                mean(r["seconds"] for r in rs) / 60,
            )
            for m, rs in alive.items()
        )
        found.append(
            Finding(
                f"EP ends where backpropagation ends: {SETTINGS[dataset].title}, {method.removeprefix('EP, ')}",
                judged(middle - half <= 0),
                f"top-1 error: {told}; paired gap {middle:+.1f} ± {half:.1f} (95%)",
            )
        )
    return found
