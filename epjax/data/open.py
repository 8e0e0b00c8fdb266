"""From what a person writes after --data to a Dataset."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from epjax.data.demo import open_demo
from epjax.data.source import Dataset
from epjax.data.sources.arrayrecord import find_prepared, open_arrayrecord, open_prepared
from epjax.data.sources.cifar import find_cifar, open_cifar
from epjax.data.sources.folder import find_layout, open_folder
from epjax.data.sources.idx import open_idx
from epjax.data.sources.labels import places
from epjax.data.sources.tar import TRAIN_TAR, open_tar
from epjax.data.sources.words import find_words

_FORMS: dict[str, Callable[[str], Dataset]] = {
    "tar": lambda place: open_tar(Path(place).expanduser()),
    "idx": lambda place: open_idx(Path(place).expanduser()),
    "cifar": lambda place: open_cifar(Path(place).expanduser()),
    "tfds": open_arrayrecord,
    "prepared": lambda place: open_prepared(find_prepared(Path(place).expanduser()) or Path(place)),
}
"""What opens each form but folders."""


def open_dataset(spec: str = "auto", val_share: float | None = None) -> Dataset:
    """The data set that `spec` names.

        auto            the folder that the environment variable IMAGENET_DIR names, else the embedded demo
        demo            the embedded demo
        folder:PATH     images in folders: train/CLASS/* and val/CLASS/* or val/* with a list of their classes,
                        Kaggle's ILSVRC, Tiny ImageNet as downloaded, or CLASS/* without a split
        tar:PATH        a tar of train/CLASS/* and val/CLASS/*, or a folder with the two ILSVRC2012 tars as downloaded
        tfds:NAME@DIR   ArrayRecord files that tensorflow-datasets prepared
        idx:PATH        MNIST or Fashion-MNIST as IDX files
        cifar:PATH      CIFAR-10 or CIFAR-100 as binary or pickled files
        PATH            any of these, recognised by what is there

    Of class folders without a split `val_share`, between 0 and 1, is the share of images that is for validation; which
    ones, a hash of CLASS/NAME says. `words` of the result holds words for WordNet IDs, where a list of them is at hand.
    ValueError or FileNotFoundError say in one sentence what is missing and what to do.
    """
    if val_share is not None and not 0 < val_share < 1:
        raise ValueError(f"val_share must lie between 0 and 1, got {val_share!r}")
    if spec == "auto" and (folder := os.environ.get("IMAGENET_DIR")):
        dataset = open_dataset(folder, val_share)
        return replace(dataset, origin=f"{dataset.origin}, because IMAGENET_DIR names them")
    if spec.startswith("text:"):
        raise ValueError(f"the data must be images here, got {spec}: epjax train char_lm learns from a text")
    form, place = _form(spec)
    if form == "folder":
        dataset = open_folder(Path(place).expanduser(), val_share)
    elif val_share is not None:
        raise ValueError(
            f"--val-share is for class folders without a split, and {spec} is no such folder: leave it out"
        )
    elif form == "demo":
        return open_demo(", because IMAGENET_DIR is not set" if spec == "auto" else "")
    else:
        dataset = _FORMS[form](place)
    return replace(dataset, words=find_words(dataset.classes, places(Path(place).expanduser())))


def _form(spec: str) -> tuple[str, str]:
    """The form that data have, and where they lie."""
    if spec in ("auto", "demo"):
        return "demo", ""
    form, colon, rest = spec.partition(":")
    if colon and form != "prepared" and form in ("folder", *_FORMS):
        return form, rest
    path = Path(spec).expanduser()
    if not path.exists():
        forms = ", ".join(name for name in _FORMS if name not in ("tfds", "prepared"))
        raise FileNotFoundError(f"the data {spec} do not exist: give a path, or auto, demo, folder, {forms} or tfds:")
    return _form_of(path), spec


def _form_of(path: Path) -> str:
    if path.is_file() or (path / TRAIN_TAR).exists():
        return "tar"
    if any(path.glob("*images*idx3*")):
        return "idx"
    if (path / "train").is_dir():
        return "folder"
    if find_cifar(path):
        return "cifar"
    if find_layout(path) is None and find_prepared(path):
        return "prepared"
    return "folder"
