"""What the commands for images of 32x32 share: named data sets, from options to a task."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from epjax import Network
from epjax.data import Dataset, open_dataset
from experiments.config import Config
from experiments.task import Task

Name = Literal["mnist", "fashion_mnist", "cifar10", "cifar100", "imagenet32"]
CLASSES = {"mnist": 10, "fashion_mnist": 10, "cifar10": 10, "cifar100": 100, "imagenet32": 1000}


@dataclass(frozen=True)
class Images:
    """Which images."""

    dataset: Name = "mnist"
    """Decides the recipe, the transforms and the normalisation."""
    data: str = ""
    """Where its bytes lie: idx:PATH, cifar:PATH, tfds:NAME@DIR, folder:PATH, or a path that is recognised."""


@dataclass(frozen=True)
class SmallImagesConfig(Config):
    """A network on images of 32x32; each command adds the network."""

    images: Images = field(default_factory=Images)


C = TypeVar("C", bound=SmallImagesConfig)


def make_task(experiment: str, title: str, config: C, make_network: Callable[[C, int], Network]) -> Task:
    """Open the images and make the network for their classes."""
    if not config.images.data:
        raise ValueError(f"--data must say where {config.images.dataset} lies, for instance --data idx:PATH")
    dataset = open_dataset(config.images.data)
    _check(dataset, config.images)
    network = make_network(config, len(dataset.classes))
    return Task(experiment, title, network, dataset, *dataset.transforms(32))


def _check(dataset: Dataset, wanted: Images) -> None:
    """Refuse another data set's bytes. A folder has no name of its own, but it has classes."""
    other = dataset.name in CLASSES and dataset.name != wanted.dataset
    if other or len(dataset.classes) != CLASSES[wanted.dataset]:
        found = f"{dataset.name} with {len(dataset.classes)} classes"
        raise ValueError(f"--dataset is {wanted.dataset}, but --data {wanted.data} holds {found}")
