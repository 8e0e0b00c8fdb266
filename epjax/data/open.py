"""From what a person writes after --data to a Dataset."""

import os
from collections.abc import Callable
from pathlib import Path

from epjax.data.demo import open_demo
from epjax.data.source import Dataset
from epjax.data.sources.folder import open_folder
from epjax.data.sources.idx import open_idx
from epjax.data.sources.tar import TRAIN_TAR, open_tar

_FORMS: dict[str, Callable[[Path], Dataset]] = {"folder": open_folder, "tar": open_tar, "idx": open_idx}


def open_dataset(spec: str = "auto") -> Dataset:
    """The data set that `spec` names.

    auto            the folder that the environment variable IMAGENET_DIR names, else the embedded demo
    demo            the embedded demo
    folder:PATH     train/CLASS/*.JPEG and val/CLASS/*
    tar:PATH        a tar of that layout, or a folder with the two ILSVRC2012 tars as downloaded
    tfds:NAME@DIR   ArrayRecord files that tensorflow-datasets prepared
    idx:PATH        MNIST or Fashion-MNIST as IDX files
    cifar:PATH      CIFAR-10 or CIFAR-100 as binary or pickled files
    PATH            any of these, recognised by what is there

    ValueError or FileNotFoundError say in one sentence what is missing and what to do.
    """
    if spec == "auto":
        folder = os.environ.get("IMAGENET_DIR")
        return open_dataset(folder) if folder else open_demo(", because IMAGENET_DIR is not set")
    if spec == "demo":
        return open_demo()
    form, colon, path = spec.partition(":")
    if colon and form in _FORMS:
        return _FORMS[form](Path(path).expanduser())
    return _recognise(Path(spec).expanduser())(Path(spec).expanduser())


def _recognise(path: Path) -> Callable[[Path], Dataset]:
    if path.is_file() or (path / TRAIN_TAR).exists():
        return open_tar
    if any(path.glob("*images*idx3*")):
        return open_idx
    return open_folder
