"""The images of the two splits by their classes, and what must hold between train and val."""

import os
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from epjax.data.source import first_few
from epjax.data.sources.listing import Listings, class_folders


class Split(NamedTuple):
    """The images of a split: their names below `root`, as bytes, and the place of the class of each among `classes`."""

    root: Path
    names: list[bytes]
    labels: list[int]


class Splits(NamedTuple):
    """What a layout found; `about` is the layout in a few words."""

    classes: tuple[str, ...]
    train: Split
    val: Split
    about: str


Found = dict[str, list[bytes]]
"""The names of the images in the folder of each class."""


def train_classes(train: Path) -> tuple[str, ...]:
    """The classes, sorted. ValueError where there is none."""
    classes = tuple(class_folders(train))
    if not classes:
        raise ValueError(f"{train} holds no class folder: it must hold one folder of images for each class")
    return classes


def of_classes(listings: Listings, root: Path, classes: Sequence[str], inner: str = "") -> Found:
    """The names of the images of each class, below `root`: in its folder, or in the folder `inner` of that."""
    folders = [f"{c}/{inner}" if inner and (root / c / inner).is_dir() else c for c in classes]
    names = listings.images([root / folder for folder in folders])
    return {
        c: [prefix + name for name in found]
        for c, prefix, found in zip(classes, (os.fsencode(f"{f}/") for f in folders), names, strict=True)
    }


def having(found: Found) -> set[str]:
    """The classes that have images."""
    return {c for c, names in found.items() if names}


def below(root: Path, classes: Sequence[str], found: Found) -> Split:
    """The images of class folders, class after class."""
    names = [name for c in classes for name in found[c]]
    return Split(root, names, [label for label, c in enumerate(classes) for _ in found[c]])


def flat(root: Path, names: list[bytes], labels: Sequence[str], classes: Sequence[str]) -> Split:
    """The images of one folder."""
    place = {c: label for label, c in enumerate(classes)}
    return Split(root, names, [place[label] for label in labels])


def with_images(
    train: Path, val: Path, classes: tuple[str, ...], found: Found, in_val: Collection[str]
) -> tuple[str, ...]:
    """The classes that have images to train on; one warning names the folders that have none.

    `in_val` are those with images in val. Raises ValueError where a class folder is empty in one split, and in the
    other one it is not. A class without a folder in val is allowed: validation images may be few.
    """
    in_train = having(found)
    for root, other, here, there in ((train, val, in_train, in_val), (val, train, in_val, in_train)):
        if missing := [c for c in classes if c not in here and c in there and (root / c).is_dir()]:
            raise ValueError(
                f"{root} has no image of class {first_few(missing)}, and {other.name}/ has: both must have the same"
            )
    return without_empty(classes, found)


def refuse_empty_alone(train: Path, val: Path, classes: Sequence[str], found: Found) -> None:
    """ValueError that names the first few class folders that are empty in train and not there in val."""
    if alone := [c for c in classes if not found[c] and not (val / c).is_dir()]:
        raise ValueError(
            f"{train} has no image of class {first_few(alone)}, and {val.name}/ has no folder of that name"
        )


def without_empty(classes: tuple[str, ...], found: Found) -> tuple[str, ...]:
    """The classes that have images, all of them where none has; one warning names the others."""
    nothing = [c for c in classes if not found[c]]
    if nothing and len(nothing) < len(classes):
        warnings.warn(f"class folders without an image are left out: {first_few(nothing)}", stacklevel=2)
        return tuple(c for c in classes if found[c])
    return classes


def warn_of_strays(listings: Listings, root: Path) -> None:
    """One warning names images that lie beside class folders."""
    (strays,) = listings.images([root])
    if strays:
        names = first_few(sorted(map(os.fsdecode, strays)))
        warnings.warn(f"images in {root} outside of class folders are left out: {names}", stacklevel=2)
