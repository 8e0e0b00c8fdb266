"""How folders of images lie on disks: each layout knows its own kind and lists the images of both splits."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from epjax.data.source import first_few, refuse_unknown
from epjax.data.sources.labels import ALLOWED, each, find_labels, places, rows
from epjax.data.sources.listing import Listings, class_folders, holds_images
from epjax.data.sources.splits import (
    Split,
    Splits,
    below,
    flat,
    having,
    of_classes,
    refuse_empty_alone,
    train_classes,
    warn_of_strays,
    with_images,
    without_empty,
)

VALIDATION = ("val", "validation", "test")
KAGGLE = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC")


class Layout(Protocol):
    """One way in which folders of images lie. `shares`: without a split, so that a share of them is for validation."""

    shares: bool

    def fits(self, path: Path) -> bool:
        """Whether the folder is laid out so."""
        ...

    def read(self, path: Path, listings: Listings, share: float) -> Splits:
        """The images. ValueError and FileNotFoundError say in one sentence what is wrong with them."""
        ...


def validation(path: Path) -> Path | None:
    """The folder of the validation images: the first that is there."""
    return next((path / name for name in VALIDATION if (path / name).is_dir()), None)


@dataclass(frozen=True)
class ClassFolders:
    """train/CLASS/* and val/CLASS/*."""

    shares = False

    def fits(self, path: Path) -> bool:
        """Both splits are there."""
        return (path / "train").is_dir() and validation(path) is not None

    def read(self, path: Path, listings: Listings, share: float) -> Splits:
        """Raises ValueError where val has a class that train has not, and where one is empty in one of them alone."""
        train, val = path / "train", validation(path)
        assert val is not None
        classes = train_classes(train)
        refuse_unknown(val, class_folders(val), classes)
        found, in_val = (of_classes(listings, root, classes) for root in (train, val))
        if any(found.values()):
            refuse_empty_alone(train, val, classes, found)
        classes = with_images(train, val, classes, found, having(in_val))
        for root in (train, val):
            warn_of_strays(listings, root)
        about = f"class folders in train/ and {val.name}/"
        return Splits(classes, below(train, classes, found), below(val, classes, in_val), about)


@dataclass(frozen=True)
class FlatValidation:
    """train/CLASS/* and val/*, with a list of the classes in val/ or beside it."""

    shares = False

    def fits(self, path: Path) -> bool:
        """There are images in val/, and in no folder of it."""
        val = validation(path)
        return (
            (path / "train").is_dir()
            and val is not None
            and holds_images(val)
            and not any(holds_images(val / name) for name in class_folders(val))
        )

    def read(self, path: Path, listings: Listings, share: float) -> Splits:
        """Raises FileNotFoundError where there is no list, ValueError where it does not fit the images."""
        train, val = path / "train", validation(path)
        assert val is not None
        classes = train_classes(train)
        names = sorted(*listings.images([val]))
        labels, file = labelled(val, names, places(path), classes)
        found = of_classes(listings, train, classes)
        classes = with_images(train, val, classes, found, set(labels))
        about = f"class folders in train/, {val.name}/ flat with classes from {file.name}"
        return Splits(classes, below(train, classes, found), flat(val, names, labels, classes), about)


@dataclass(frozen=True)
class Kaggle:
    """ILSVRC/Data/CLS-LOC/{train,val,test} as Kaggle has it, with LOC_val_solution.csv beside ILSVRC."""

    shares = False

    def fits(self, path: Path) -> bool:
        """There is CLS-LOC with a train/."""
        return self._data(path) is not None

    def read(self, path: Path, listings: Listings, share: float) -> Splits:
        """Its val/ may be flat or in class folders."""
        data = self._data(path)
        assert data is not None
        inner = next((layout for layout in (FlatValidation(), ClassFolders()) if layout.fits(data)), None)
        if inner is None:
            raise ValueError(f"{data} must hold train/CLASS/*.JPEG and val/*.JPEG, but there is no val/")
        splits = inner.read(data, listings, share)
        return splits._replace(about=f"Kaggle's ILSVRC/Data/CLS-LOC, {splits.about}")

    def _data(self, path: Path) -> Path | None:
        return next((path / inner for inner in KAGGLE if (path / inner / "train").is_dir()), None)


@dataclass(frozen=True)
class TinyImageNet:
    """train/WNID/images/* and val/images/* with val/val_annotations.txt, as it is downloaded."""

    shares = False

    def fits(self, path: Path) -> bool:
        """There is the list, or the class folders have a folder of images."""
        train = path / "train"
        if not train.is_dir() or validation(path) is None:
            return False
        return (path / "val/val_annotations.txt").is_file() or any(
            holds_images(train / c / "images") for c in class_folders(train)
        )

    def read(self, path: Path, listings: Listings, share: float) -> Splits:
        """Its val/ may have been put into class folders since."""
        train, val = path / "train", validation(path)
        assert val is not None
        classes = train_classes(train)
        found, inner = of_classes(listings, train, classes, "images"), val / "images"
        if not holds_images(inner):
            folders = [name for name in class_folders(val) if name != "images"]
            refuse_unknown(val, folders, classes)
            in_val = of_classes(listings, val, classes, "images")
            classes = with_images(train, val, classes, found, having(in_val))
            about = f"Tiny ImageNet's train/WNID/images, class folders in {val.name}/"
            return Splits(classes, below(train, classes, found), below(val, classes, in_val), about)
        names = sorted(*listings.images([inner]))
        labels, file = annotated(val, names)
        refuse_unknown(file, labels, classes)
        classes = with_images(train, val, classes, found, set(labels))
        about = f"Tiny ImageNet as downloaded, val/ with classes from {file.name}"
        return Splits(classes, below(train, classes, found), flat(inner, names, labels, classes), about)


@dataclass(frozen=True)
class Unsplit:
    """CLASS/* without a split: a share of the images, by a hash of CLASS/NAME, is for validation."""

    shares = True

    def fits(self, path: Path) -> bool:
        """There are images in its folders."""
        return any(holds_images(path / name) for name in class_folders(path))

    def read(self, path: Path, listings: Listings, share: float) -> Splits:
        """Raises ValueError where no image of a class is left to train on."""
        classes = tuple(class_folders(path))
        found = of_classes(listings, path, classes)
        classes = without_empty(classes, found)
        every = below(path, classes, found)
        train, val = Split(path, [], []), Split(path, [], [])
        for name, label in zip(every.names, every.labels, strict=True):
            part = val if is_validation(name, share) else train
            part.names.append(name)
            part.labels.append(label)
        left = set(train.labels)
        lost = [c for k, c in enumerate(classes) if k not in left]
        if lost:
            raise ValueError(
                f"--val-share {share:g} leaves no image of class {first_few(lost)} in {path} to train on:"
                " give a smaller share, or more images of each class"
            )
        warn_of_strays(listings, path)
        return Splits(
            classes, train, val, f"class folders without a split, --val-share {share:g} by a hash of the name"
        )


def is_validation(name: bytes, share: float) -> bool:
    """Whether an image is one of the share for validation: a pure function of CLASS/NAME, whatever else there is."""
    return int.from_bytes(hashlib.md5(b"split" + name).digest()[:8]) < share * 2**64


def labelled(
    val: Path, names: Sequence[bytes], where: Sequence[Path], classes: Sequence[str]
) -> tuple[list[str], Path]:
    """The class of each image of a flat folder, by a list that is in one of the folders `where`, and that list."""
    found = find_labels([os.fsdecode(name) for name in names], where, classes)
    if found is None:
        raise FileNotFoundError(
            f"{val} holds {len(names)} images without class folders and no list of their classes is there or beside it:"
            f" it may be {ALLOWED}"
        )
    refuse_unknown(found[1], found[0], classes)
    return found


def annotated(val: Path, names: Sequence[bytes]) -> tuple[list[str], Path]:
    """The class of each of Tiny ImageNet's validation images: the second column of val_annotations.txt."""
    file = val / "val_annotations.txt"
    if not file.is_file():
        raise FileNotFoundError(
            f"{val} holds {len(names)} images in images/, and no val_annotations.txt with their classes"
        )
    listed = {row[0]: row[1] for row in rows(file) if len(row) > 1}
    return each([os.fsdecode(name) for name in names], listed, file), file


LAYOUTS: tuple[Layout, ...] = (TinyImageNet(), FlatValidation(), ClassFolders(), Kaggle(), Unsplit())
"""The first that fits is taken."""
