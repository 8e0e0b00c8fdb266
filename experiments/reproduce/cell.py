"""One cell of a figure's grid: a training run with its place in the grid, and what it came to."""

import shutil
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
from rich.console import Console

from epjax import models
from epjax.data.transforms import Augmentation
from epjax.network import Network
from epjax.network.precision import Precision
from epjax.runs.config import Config, Gradient, Run, identity
from epjax.runs.metrics import evaluations, read_lines
from epjax.runs.metrics import training as training_lines
from epjax.runs.stopping import NotFinite
from epjax.runs.task import Task
from epjax.runs.trainer import Trainer
from experiments.reproduce.data import open_data

Result = dict[str, Any]
"""`place`, `config`, `evaluations`, `training`, `diverged` (None, or how), `seconds`, `machine`: as JSON holds them.

Results from before `training`, the steps and mean costs of the training lines, was kept lack it.
"""

COMPILATION = 25.0
"""Seconds that a cell takes beside its training, about."""


class Cell(Protocol):
    """Something to be measured once."""

    @property
    def place(self) -> Mapping[str, Any]:
        """Its coordinates in the grid."""
        ...

    def identity(self) -> dict[str, Any]:
        """All that its result depends on."""
        ...

    def forwards(self) -> float:
        """The work, in forward passes of one image."""
        ...

    def forward_seconds(self) -> float:
        """Seconds of a forward pass of one image here."""
        ...

    def run(self, folder: Path, data: Path) -> Result:
        """Do the work in `folder`, going on where it was stopped. Raises Stopped after a signal."""
        ...


def name_of(cell: Cell) -> str:
    """The coordinates as a file name."""
    return "-".join(str(v).replace("/", "_").replace(" ", "_") for v in cell.place.values())


@dataclass(frozen=True)
class Net:
    """Which network."""

    kind: Literal["vgg5", "vgg10", "vgg10_skip"] = "vgg5"
    width: float = 0.125
    gain: float = 2.0
    dense: int = 2048

    def make(self, num_classes: int, precision: Precision = "float32") -> Network:
        """The network for so many classes, its products at that precision."""
        if self.kind == "vgg5":
            return models.vgg5(num_classes, width=self.width, gain=self.gain, precision=precision)
        options = {"dense": self.dense, "skip": self.kind == "vgg10_skip", "precision": precision}
        return models.vgg10(num_classes, width=self.width, gain=self.gain, **options)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Images:
    """Which images, and how many."""

    dataset: str = "cifar10"
    train_images: int | None = None
    val_images: int | None = None
    image_size: int = 32


@dataclass(frozen=True)
class TrainingConfig(Config):
    """A configuration as the training commands have it."""

    network: Net = field(default_factory=Net)
    images: Images = field(default_factory=Images)


@dataclass(frozen=True)
class Training:
    """A training run from one configuration; `config.run.workdir` is where the cell is run."""

    place: Mapping[str, Any]
    config: TrainingConfig

    def identity(self) -> dict[str, Any]:
        """Every option that touches the numbers."""
        return identity(self.config)

    def forwards(self) -> float:
        """Images seen, times what the gradient of one costs."""
        c = self.config
        assert c.images.train_images is not None
        return c.images.train_images * c.optimiser.epochs * forward_equivalents(c.gradient)

    def forward_seconds(self) -> float:
        """Measured once a network."""
        return forward_seconds(self.config.network, self.config.images.image_size)

    def run(self, folder: Path, data: Path) -> Result:
        """Train."""
        return train(self.config, make_task(self.config, data), folder)


def train(config: Any, task: Task, folder: Path) -> Result:
    """A run in `folder`, which goes; one whose numbers are none any more has diverged, which is a result."""
    config = replace(config, run=replace(config.run, workdir=folder))
    folder.mkdir(parents=True, exist_ok=True)
    diverged = None
    try:
        Trainer(config, task, Console(quiet=True), lambda lines: None).run()
    except NotFinite as error:
        diverged = str(error).split(";")[0]
    lines = read_lines(folder / "metrics.jsonl")
    shutil.rmtree(folder)
    jax.clear_caches()
    keep = ("step", "epoch", "val_top1_error", "val_top5_error", "val_cost", "val_images", "seconds")
    evaluated = [{k: line[k] for k in keep} for line in evaluations(lines)]
    measured = ("step", "cost", "residual", "free_residual")
    trained = thinned([{k: line[k] for k in measured if k in line} for line in training_lines(lines)])
    return {"evaluations": evaluated, "training": trained, "diverged": diverged}


LINES = 100
"""Training lines that a result keeps, about."""


def thinned(lines: list[Result]) -> list[Result]:
    """Every nth line, so that no more than `LINES` are left; the last one too."""
    step = max(1, -(-len(lines) // LINES))
    return [line for i, line in enumerate(lines) if i % step == 0 or i == len(lines) - 1]


def make_task(config: TrainingConfig, data: Path) -> Task:
    """Open the images, make the network for their classes."""
    images = config.images
    dataset = open_data(images.dataset, data, images.train_images, images.val_images)
    precision = config.gradient.precision
    assert precision != "auto"  # a study's is the same on every machine
    network = config.network.make(len(dataset.classes), precision)
    crop: Augmentation | None = "pad" if images.dataset == "tiny_imagenet_20" else None
    return Task("reproduce", config.network.kind, network, dataset, *dataset.transforms(images.image_size, crop))


def forward_equivalents(options: Gradient) -> float:
    """Forward passes that the gradient of one image costs: METHOD sections 4 and 5."""
    if options.algorithm == "bp":
        return 3
    phases = 2 if options.scheme == "centered" else 1
    each = 2 * options.sweeps + 1 if options.traversal == "sweep" else 2 * options.iterations + 2
    return 1 + phases * each


@cache
def forward_seconds(network: Net, image_size: int, batch: int = 32) -> float:
    """Seconds an image: the median of five."""
    net = network.make(10)
    x = jnp.zeros((batch, image_size, image_size, 3))
    params = net.init(jax.random.key(0), x.shape[1:])
    forward = jax.jit(jax.vmap(lambda x: net.forward(params, x)[-1]))
    forward(x).block_until_ready()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        forward(x).block_until_ready()
        times.append(time.perf_counter() - start)
    return statistics.median(times) / batch


def in_float32(gradient: Gradient) -> Gradient:
    """With the precision of a study, the same on every machine, in the place of `auto`."""
    return replace(gradient, precision="float32") if gradient.precision == "auto" else gradient


def training(place: Mapping[str, Any], seed: int = 0, eval_every: int = 1, **groups: Any) -> Training:
    """A cell from its groups of options; products in float32 where they say no other precision."""
    groups["gradient"] = in_float32(groups.get("gradient", Gradient()))
    return Training(place, TrainingConfig(Run(Path(), seed=seed, eval_every=eval_every), **groups))
