"""What the commands for ImageNet share: images of any origin and size, recipes by the data, from options to a task."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from epjax import Network
from epjax.data import open_dataset
from epjax.data.transforms import Augmentation
from experiments.config import Config, Run, pick
from experiments.task import Task


@dataclass(frozen=True)
class Images:
    """Which images, and what is done to them."""

    data: str = "auto"
    """folder:PATH (with train/CLASS and val/CLASS), tar:PATH, tfds:NAME@DIR, a path that is recognised, demo,
    or auto: the folder that IMAGENET_DIR names, else the demo."""
    image_size: int = 224
    """Height and width that the network sees."""
    crop: Augmentation = "resized"
    """In training: a random part resized (resized), a random square of the image resized to 8/7 of the size
    (random), a random square of the image padded by 4 (pad); each with a random flip; or the image (none)."""


@dataclass(frozen=True)
class ImageNetConfig(Config):
    """A network on images; each command adds the network."""

    images: Images = field(default_factory=Images)


C = TypeVar("C", bound=ImageNetConfig)


def uses_demo(spec: str) -> bool:
    """Whether `--data spec` means the embedded demo."""
    return spec == "demo" or (spec == "auto" and not os.environ.get("IMAGENET_DIR"))


def choose(asked: C, recipes: Callable[[Run], Mapping[str, C]]) -> C:
    """The defaults for what was asked: the demo's for the demo, else the first recipe's, or those of `--recipe`."""
    name = asked.run.recipe
    if name == "auto":
        name = "demo" if uses_demo(asked.images.data) else next(iter(recipes(asked.run)))
    return pick(recipes(replace(asked.run, recipe=name)), name)


def make_task(experiment: str, title: str, config: C, make_network: Callable[[C, int], Network]) -> Task:
    """Open the images and make the network for their classes."""
    dataset = open_dataset(config.images.data)
    network = make_network(config, len(dataset.classes))
    transforms = dataset.transforms(config.images.image_size, config.images.crop)
    return Task(experiment, title, network, dataset, *transforms)
