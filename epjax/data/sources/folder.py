"""Images in class folders: train/CLASS/*.JPEG and val/CLASS/*.JPEG (test/ where there is no val/)."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from epjax.data.source import IMAGE_SUFFIXES, LITTER, Dataset, Example, canonical_order, digest, make_dataset, recipe_of


class FolderSource:
    """The images of one split, read when asked for. Names are kept as fixed-width bytes: 40 MB for ImageNet."""

    def __init__(self, root: Path, classes: tuple[str, ...]) -> None:
        """`root` holds one folder a class; those that `classes` does not name raise ValueError."""
        unknown = sorted(c for c in set(class_folders(root)) - set(classes) if any(_images(root / c)))
        if unknown:
            raise ValueError(f"{root} holds class {unknown[0]!r}, which the training images do not have")
        found = [(os.fsencode(f"{c}/{e.name}"), k) for k, c in enumerate(classes) for e in _images(root / c)]
        names = np.array([name for name, _ in found], dtype=np.bytes_)
        labels = np.array([label for _, label in found], np.int32)
        order = canonical_order(b"".join(digest(root.name, n.rpartition(b"/")[2]) for n, _ in found), labels)
        self.root, self.names, self.labels = str(root), names[order], labels[order]

    def __len__(self) -> int:
        """The number of images."""
        return len(self.names)

    def __getitem__(self, index: int) -> Example:
        """The bytes of one file."""
        path = os.path.join(self.root, os.fsdecode(bytes(self.names[index])))
        with open(path, "rb") as file:
            return Example(file.read(), int(self.labels[index]), path)


def class_folders(root: Path) -> list[str]:
    """The classes of a split, sorted."""
    return sorted(
        e.name for e in os.scandir(root) if e.is_dir() and not e.name.startswith(".") and e.name not in LITTER
    )


def _images(folder: Path) -> Iterator[os.DirEntry[str]]:
    if folder.is_dir():
        with os.scandir(folder) as entries:
            for e in entries:
                if e.name.lower().endswith(IMAGE_SUFFIXES) and not e.name.startswith(".") and e.is_file():
                    yield e


def _with_images(train: Path, val: Path, classes: tuple[str, ...]) -> tuple[str, ...]:
    """The classes that have images to train on; one warning names the folders that have none.

    Raises ValueError where a class folder is empty in one split and not in the other, or is in val alone. A class
    without a folder in val is allowed: validation images may be few.
    """
    unknown = [c for c in class_folders(val) if c not in classes]
    if unknown:
        raise ValueError(f"{val} holds class {unknown[0]!r}, which the training images do not have")
    empty = {
        split: {c for c in classes if (split / c).is_dir() and not any(_images(split / c))} for split in (train, val)
    }
    for split, other in ((train, val), (val, train)):
        if missing := [c for c in classes if c in empty[split] and any(_images(other / c))]:
            raise ValueError(
                f"{split} has no image of class {_first(missing)}, and {other.name}/ has: both must have the same"
            )
    nothing = [c for c in classes if c in empty[train]]
    if nothing and len(nothing) < len(classes):
        warnings.warn(f"class folders without an image are left out: {_first(nothing)}", stacklevel=4)
        return tuple(c for c in classes if c not in nothing)
    return classes


def open_folder(path: Path) -> Dataset:
    """The data set in a folder; ValueError or FileNotFoundError say what is missing and where."""
    if not path.exists():
        raise FileNotFoundError(f"the data folder {path} does not exist")
    if not path.is_dir():
        raise ValueError(f"the data folder {path} is a file; a tar is given as tar:{path}")
    train = path / "train"
    val = next((path / v for v in ("val", "validation", "test") if (path / v).is_dir()), None)
    if not train.is_dir() or val is None:
        raise ValueError(f"{path} must hold train/CLASS/*.JPEG and val/CLASS/*.JPEG, but {_what_is_there(path)}")
    classes = tuple(class_folders(train))
    if not classes:
        raise ValueError(f"{train} holds no class folder: it must hold one folder of images for each class")
    classes = _with_images(train, val, classes)
    sources = FolderSource(train, classes), FolderSource(val, classes)
    origin = f"images in {path}: {len(sources[0])} in train/, {len(sources[1])} in {val.name}/, {len(classes)} classes"
    recipe = recipe_of(classes)
    return make_dataset(recipe, *sources, classes, origin, path.resolve().name if recipe == "imagenet" else recipe)


def _what_is_there(path: Path) -> str:
    folders = class_folders(path)
    if path.name in ("train", "val") and (path.parent / "train").is_dir():
        return f"it is one split: give {path.parent}"
    if nested := [f for f in folders if (path / f / "train").is_dir()]:
        return f"its folder {nested[0]} does: give {path / nested[0]}"
    if "train" in folders:
        return "there is no val/ (nor test/): put some images of each class there"
    if not any(path.iterdir()):
        return "it is empty"
    return f"it holds {_first(folders) or 'no folder'}"


def _first(names: list[str]) -> str:
    """The first three of them."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
