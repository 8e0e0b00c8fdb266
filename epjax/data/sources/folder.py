"""Images in folders, in whichever of the known layouts they lie."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from epjax.data.source import Dataset, Example, canonical_order, digest, first_few, make_dataset, recipe_of
from epjax.data.sources.layouts import KAGGLE, LAYOUTS, Layout, Unsplit
from epjax.data.sources.listing import Listings, class_folders


class FolderSource:
    """The images of one split, read when asked for. Names are kept as fixed-width bytes: 40 MB for ImageNet."""

    def __init__(self, split: str, root: Path, names: Sequence[bytes], labels: Sequence[int]) -> None:
        """`names` are paths below `root`, in any order."""
        places, kept = np.array(labels, np.int32), np.array(names, dtype=np.bytes_)
        order = canonical_order(b"".join(digest(split, name.rpartition(b"/")[2]) for name in names), places)
        self.root, self.names, self.labels = str(root), kept[order], places[order]

    def __len__(self) -> int:
        """The number of images."""
        return len(self.names)

    def __getitem__(self, index: int) -> Example:
        """The bytes of one file."""
        path = os.path.join(self.root, os.fsdecode(bytes(self.names[index])))
        with open(path, "rb") as file:
            return Example(file.read(), int(self.labels[index]), path)


def find_layout(path: Path) -> Layout | None:
    """The layout of a folder; None where it is none that is known."""
    return next((layout for layout in LAYOUTS if layout.fits(path)), None) if path.is_dir() else None


def open_folder(path: Path, val_share: float | None = None) -> Dataset:
    """The data set in a folder; `val_share` of the images are for validation where they lie without a split.

    ValueError or FileNotFoundError say what is missing and where.
    """
    if not path.exists():
        raise FileNotFoundError(f"the data folder {path} does not exist")
    if not path.is_dir():
        raise ValueError(f"the data folder {path} is a file; a tar is given as tar:{path}")
    layout = find_layout(path)
    if layout is None or (layout.shares and val_share is None):
        raise ValueError(f"{path} must hold train/CLASS/*.JPEG and val/CLASS/*.JPEG, but {_what_is_there(path)}")
    if val_share is not None and not layout.shares:
        raise ValueError(f"--val-share is for class folders without a split, and {path} has one: leave it out")
    with Listings(path) as listings:
        classes, *splits, about = layout.read(path, listings, val_share or 0.0)
    train, val = (FolderSource(name, *split) for name, split in zip(("train", "val"), splits, strict=True))
    origin = f"images in {path}, {about}"
    recipe = recipe_of(classes)
    return make_dataset(recipe, train, val, classes, origin, path.resolve().name if recipe == "imagenet" else recipe)


def _what_is_there(path: Path) -> str:
    folders = class_folders(path)
    if path.name in ("train", "val") and (path.parent / "train").is_dir():
        return f"it is one split: give {path.parent}"
    if nested := [f for f in folders if any((path / f / inner / "train").is_dir() for inner in ("", KAGGLE[0]))]:
        return f"its folder {nested[0]} does: give {path / nested[0]}"
    if "train" in folders:
        return "there is no val/ (nor test/): put some images of each class there"
    if not any(path.iterdir()):
        return "it is empty"
    if Unsplit().fits(path):
        return "it has class folders without a split: --val-share 0.1 validates on a tenth of their images"
    return f"it holds {first_few(folders) or 'no folder'}"
