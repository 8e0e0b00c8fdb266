"""Options for images, and what they open: images of any origin and size, or one of the named sets of 32x32."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Protocol

import tyro

from epjax.data import Dataset, Transform, open_dataset
from epjax.data.source import Stats
from epjax.data.transforms import Augmentation
from epjax.runs.option import option


class DataOptions(Protocol):
    """A frozen dataclass of options that says which data an experiment learns from."""

    def recipe(self, recipes: Mapping[str, Any]) -> str:
        """The recipe for these data, where none is asked for."""
        ...

    def open(self) -> Dataset:
        """The data. Raises ValueError and OSError in one sentence."""
        ...

    def transforms(self, dataset: Dataset) -> tuple[Transform, Transform]:
        """From one example to the network's input: in training, and in evaluation."""
        ...


@dataclass(frozen=True)
class Images:
    """Which images, and what is done to them."""

    data: str = option("auto", numbers=False, each=True)
    """folder:PATH (train/CLASS and val/CLASS, or as ImageNet, Kaggle and Tiny ImageNet have them), tar:PATH,
    tfds:NAME@DIR, a path that is recognised, demo, or auto: the folder that IMAGENET_DIR names, else the demo."""
    image_size: int = 224
    """Height and width that the network sees."""
    crop: Augmentation = "resized"
    """In training: a random part resized (resized), a random square of the image resized to 8/7 of the size
    (random), a random square of the image padded by 4 (pad); each with a random flip; or the image (none)."""
    pixels: Literal["standard", "unit"] = option("standard", before="standard")
    """What the network is given: pixels less their mean over their deviation, or in [0, 1]."""
    val_share: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = option(None, before=None)
    """Share for validation of class folders without a split; a hash of the names picks the images."""

    def recipe(self, recipes: Mapping[str, Any]) -> str:
        """The demo's for the demo, where it has one, else the first."""
        demo = self.data == "demo" or (self.data == "auto" and not os.environ.get("IMAGENET_DIR"))
        return "demo" if demo and "demo" in recipes else next(iter(recipes))

    def open(self) -> Dataset:
        """The images."""
        return self.scaled(open_dataset(self.data, self.val_share))

    def scaled(self, dataset: Dataset) -> Dataset:
        """The images, to be given as `pixels` says."""
        as_they_are = Stats((0.0,) * dataset.channels, (1.0,) * dataset.channels)
        return replace(dataset, stats=as_they_are) if self.pixels == "unit" else dataset

    def transforms(self, dataset: Dataset) -> tuple[Transform, Transform]:
        """Crops for training, the middle for evaluation."""
        return dataset.transforms(self.image_size, self.crop)


Name = Literal["mnist", "fashion_mnist", "cifar10", "cifar100", "imagenet32"]
CLASSES = {"mnist": 10, "fashion_mnist": 10, "cifar10": 10, "cifar100": 100, "imagenet32": 1000}


@dataclass(frozen=True)
class SmallImages:
    """Which images."""

    dataset: Name = "mnist"
    """Decides the recipe, the transforms and the normalisation."""
    data: str = option("", numbers=False, each=True)
    """Where its bytes lie: idx:PATH, cifar:PATH, tfds:NAME@DIR, folder:PATH, or a path that is recognised."""

    def recipe(self, recipes: Mapping[str, Any]) -> str:
        """The first."""
        return next(iter(recipes))

    def open(self) -> Dataset:
        """The images. Raises ValueError for another data set's bytes; a folder has no name, but it has classes."""
        if not self.data:
            raise ValueError(f"--data must say where {self.dataset} lies, for instance --data idx:PATH")
        found = open_dataset(self.data)
        other = found.name in CLASSES and found.name != self.dataset
        if other or len(found.classes) != CLASSES[self.dataset]:
            what = f"{found.name} with {len(found.classes)} classes"
            raise ValueError(f"--dataset is {self.dataset}, but --data {self.data} holds {what}")
        return found

    def transforms(self, dataset: Dataset) -> tuple[Transform, Transform]:
        """32x32, as the paper has them."""
        return dataset.transforms(32)
