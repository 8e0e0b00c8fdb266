"""A cell that is a training command: an experiment's recipe, with a data set, a seed and another gradient."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from epjax.runs.config import Gradient, Run, identity
from epjax.runs.experiment import Experiment
from epjax.runs.task import Task
from experiments.reproduce.cell import Result, in_float32, train
from experiments.reproduce.data import open_data

PACE = 1 / 2000
"""Seconds an image and epoch, about, on a core."""


@dataclass(frozen=True)
class Command:
    """A run of `experiment` as `config` says, on a data set of the folder; `images` cuts the training set."""

    place: Mapping[str, Any]
    experiment: Experiment
    config: Any
    dataset: str
    images: int | None = None

    def identity(self) -> dict[str, Any]:
        """Every option that touches the numbers, and the data."""
        return identity(self.config) | {"dataset": self.dataset, "images": self.images}

    def forwards(self) -> float:
        """Images seen."""
        return float((self.images or 60_000) * self.config.optimiser.epochs)

    def forward_seconds(self) -> float:
        """A guess, which the first cell corrects."""
        return PACE

    def run(self, folder: Path, data: Path) -> Result:
        """Train."""
        return train(self.config, self._task(data), folder)

    def _task(self, data: Path) -> Task:
        images = self.config.images
        found = images.scaled(open_data(self.dataset, data, self.images, self.images))
        network = self.experiment.make_network(self.config, len(found.classes))
        title = self.config.network.title
        return Task(self.experiment.name, title, network, found, *images.transforms(found))


def command(
    place: Mapping[str, Any],
    experiment: Experiment,
    recipe: str,
    dataset: str,
    seed: int,
    change: Callable[[Gradient], Gradient],
    quick: bool,
    images: int | None = None,
) -> Command:
    """The cell, on the first `images` of either split (None: all); with `quick` a few steps of it."""
    groups: Any = {"network": experiment.network, "images": experiment.images}
    asked = experiment.config(Run(Path(), recipe=recipe), **groups)
    usual = experiment.choose(asked)
    run = Run(Path(), recipe=recipe, seed=seed, max_steps=3 if quick else None, log_every=1 if quick else None)
    config = replace(usual, run=run, gradient=in_float32(change(usual.gradient)))
    return Command(place, experiment, config, dataset, 64 if quick else images)
