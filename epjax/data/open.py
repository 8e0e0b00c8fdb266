"""From what a person writes after --data to a Dataset."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from epjax.data.demo import open_demo
from epjax.data.source import Dataset
from epjax.data.sources.arrayrecord import find_prepared, open_arrayrecord, open_prepared
from epjax.data.sources.cifar import find_cifar, open_cifar
from epjax.data.sources.folder import open_folder
from epjax.data.sources.idx import open_idx
from epjax.data.sources.tar import TRAIN_TAR, open_tar

_FORMS: dict[str, Callable[[Path], Dataset]] = {
    "folder": open_folder,
    "tar": open_tar,
    "idx": open_idx,
    "cifar": open_cifar,
}


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
        if not folder:
            return open_demo(", because IMAGENET_DIR is not set")
        dataset = open_dataset(folder)
        return replace(dataset, origin=f"{dataset.origin}, because IMAGENET_DIR names them")
    if spec == "demo":
        return open_demo()
    form, colon, rest = spec.partition(":")
    if colon and form == "tfds":
        return open_arrayrecord(rest)
    if colon and form in _FORMS:
        return _FORMS[form](Path(rest).expanduser())
    path = Path(spec).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"the data {spec} do not exist: give a path, or auto, demo, {', '.join(_FORMS)} or tfds:"
        )
    return _open_bare(path)


def _open_bare(path: Path) -> Dataset:
    if path.is_file() or (path / TRAIN_TAR).exists():
        return open_tar(path)
    if any(path.glob("*images*idx3*")):
        return open_idx(path)
    if (path / "train").is_dir():
        return open_folder(path)
    if find_cifar(path):
        return open_cifar(path)
    if prepared := find_prepared(path):
        return open_prepared(prepared)
    return open_folder(path)
