"""What every form of data comes down to: random access to examples, and what is known about a data set."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from epjax.data.transforms import Augmentation, Transform, make_transforms

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".ppm", ".webp")

LITTER = ("__MACOSX", "Thumbs.db", "desktop.ini")
"""What unpacking and other systems leave behind; names that begin with a dot are litter too."""

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def is_image(name: str) -> bool:
    """Whether a file of that name is an image: by its suffix, and no litter."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def is_class(name: str) -> bool:
    """Whether a folder of that name is a class: neither litter nor called like an image."""
    return not name.startswith(".") and name not in LITTER and not name.lower().endswith(IMAGE_SUFFIXES)


def first_few(names: Sequence[str]) -> str:
    """The first three of them."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def refuse_unknown(where: Path, found: Iterable[str], classes: Collection[str]) -> None:
    """ValueError that names the first few classes in `found` that the training images, of `classes`, do not have."""
    unknown = sorted(set(found).difference(classes))
    if unknown:
        what = f"class{'es' * (len(unknown) > 1)} {first_few([repr(c) for c in unknown])}"
        raise ValueError(f"{where} holds {what}, which the training images do not have")


class Example(NamedTuple):
    """One image as it lies: encoded bytes, or uint8 pixels [H, W, C]; its class; what to call it in a message."""

    image: bytes | np.ndarray
    label: int
    name: str


class Source(Protocol):
    """Random access to examples, from any thread, and picklable, so that worker processes can have it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


class Stats(NamedTuple):
    """Mean and standard deviation per channel of pixels scaled to [0, 1]: x <- (x / 255 - mean) / std."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Recipe:
    """How a known data set is normalised, cropped in training, and how large its images are by default."""

    stats: Stats
    augmentation: Augmentation
    image_size: int


_IMAGENET = Stats((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

RECIPES = {
    "imagenet": Recipe(_IMAGENET, "resized", 224),
    "imagenet32": Recipe(_IMAGENET, "pad", 32),
    "cifar10": Recipe(Stats((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)), "pad", 32),
    "cifar100": Recipe(Stats((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)), "pad", 32),
    "mnist": Recipe(Stats((0.1307,), (0.3081,)), "none", 32),
    # Measured over the 60,000 training images, at 28x28.
    "fashion_mnist": Recipe(Stats((0.2860,), (0.3530,)), "none", 32),
    # Measured over the training images of the demo, decoded, at 28x28; its JPEGs are gray.
    "demo": Recipe(Stats((0.2892,) * 3, (0.3515,) * 3), "pad", 32),
}


@dataclass(frozen=True)
class Dataset:
    """Training and validation examples, and what one has to know to use them.

    `classes[label]` names a class, `words` says in a word what it is, where the name is a WordNet ID. `origin` is one
    line that says which data these are and why they were taken.
    """

    name: str
    train: Source
    val: Source
    classes: tuple[str, ...]
    origin: str
    stats: Stats
    augmentation: Augmentation
    image_size: int
    words: Mapping[str, str] = field(default_factory=dict)
    sha256: str = ""
    """Of a text, unpacked: the first 16 digits."""
    token: str = ""
    """What a text is made of, character or byte, whose names are then the classes; none where examples are images."""

    @property
    def examples(self) -> str:
        """What there are many of."""
        return "windows" if self.token else "images"

    @property
    def channels(self) -> int:
        """1 for gray images, 3 for colour."""
        return len(self.stats.mean)

    def transforms(
        self, image_size: int | None = None, crop: Augmentation | None = None
    ) -> tuple[Transform, Transform]:
        """The transforms for training and for evaluation; by default those of the data set's recipe."""
        size = self.image_size if image_size is None else image_size
        return make_transforms(crop or self.augmentation, size, self.channels)


def make_dataset(
    recipe: str, train: Source, val: Source, classes: Iterable[str], origin: str, name: str = ""
) -> Dataset:
    """A Dataset with the constants of RECIPES[recipe]; ValueError where a split is empty."""
    for split, source in (("training", train), ("validation", val)):
        if len(source) == 0:
            raise ValueError(f"the data hold no {split} image: {origin}")
    r = RECIPES[recipe]
    return Dataset(name or recipe, train, val, tuple(classes), origin, r.stats, r.augmentation, r.image_size)


def recipe_of(classes: tuple[str, ...]) -> str:
    """The recipe for images in class folders: CIFAR-10 is known by its class names, anything else is as ImageNet."""
    return "cifar10" if classes == CIFAR10 else "imagenet"


def digest(split: str, file_name: str | bytes) -> bytes:
    """The key, 16 bytes, by which the images of a split are put in order: see `canonical_order`."""
    salt = b"train" if split == "train" else b"validation"
    return hashlib.md5(salt + (file_name.encode() if isinstance(file_name, str) else file_name)).digest()


def canonical_order(digests: bytes | bytearray, labels: np.ndarray) -> np.ndarray:
    """The order of a split whichever form it lies in: by the MD5 of split and file name, then by class.

    tensorflow-datasets writes ImageNet in this order, so an image has the same index in every form.
    """
    key = np.frombuffer(bytes(digests), ">u8").reshape(-1, 2)
    return np.lexsort((labels, key[:, 1], key[:, 0]))
