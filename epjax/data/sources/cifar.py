"""CIFAR-10 and CIFAR-100 in their original files: the binary version, or the one for Python."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from epjax.data.source import CIFAR10, Dataset, make_dataset
from epjax.data.sources.idx import ArraySource

_PIXELS = 3 * 32 * 32
_FILES = {
    ("cifar10", "binary"): ([f"data_batch_{i}.bin" for i in range(1, 6)], ["test_batch.bin"]),
    ("cifar10", "python"): ([f"data_batch_{i}" for i in range(1, 6)], ["test_batch"]),
    ("cifar100", "binary"): (["train.bin"], ["test.bin"]),
    ("cifar100", "python"): (["train"], ["test"]),
}


def find_cifar(path: Path) -> tuple[Path, str, str] | None:
    """(folder, data set, version) where `path`, or a folder in it, holds all the files of one; else None."""
    for folder in (path, *sorted(p for p in path.glob("cifar-*") if p.is_dir())):
        for (name, version), (train, test) in _FILES.items():
            if all((folder / file).is_file() for file in train + test):
                return folder, name, version
    return None


def open_cifar(path: Path) -> Dataset:
    """The data set in a folder of CIFAR files; images lie in memory (180 MB)."""
    found = find_cifar(path)
    if found is None:
        raise FileNotFoundError(
            f"{path} must hold data_batch_1 to 5 and test_batch (CIFAR-10) or train and test (CIFAR-100), with or "
            "without .bin"
        )
    folder, name, version = found
    classes = _class_names(folder, name)
    train, test = (
        _read([folder / file for file in files], name, version, len(classes)) for files in _FILES[name, version]
    )
    origin = f"{name} in the {version} files of {folder}"
    return make_dataset(name, train, test, classes, origin)


def _read(paths: list[Path], name: str, version: str, num_classes: int) -> ArraySource:
    read = _read_binary if version == "binary" else _read_pickle
    images, labels = zip(*(read(path, name) for path in paths), strict=True)
    pixels = np.concatenate(images).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return ArraySource(np.ascontiguousarray(pixels), np.concatenate(labels), str(paths[0]), num_classes)


def _read_binary(path: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Records of the label (CIFAR-100: the coarse, then the fine label) and 3 x 32 x 32 bytes."""
    data, labels = np.fromfile(path, np.uint8), 1 if name == "cifar10" else 2
    if len(data) % (labels + _PIXELS):
        raise ValueError(f"{path} holds {len(data)} bytes, no multiple of the {labels + _PIXELS} bytes of a record")
    records = data.reshape(-1, labels + _PIXELS)
    return records[:, labels:], records[:, labels - 1]


class _Unpickler(pickle.Unpickler):
    """Loads arrays and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] in ("numpy", "_codecs") and name in ("_reconstruct", "ndarray", "dtype", "encode"):
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")


def _read_pickle(path: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        with open(path, "rb") as file:
            batch = _Unpickler(file, encoding="bytes").load()
        return batch[b"data"], np.array(batch[b"labels" if name == "cifar10" else b"fine_labels"], np.int32)
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a CIFAR file for Python: {error}") from None


def _class_names(folder: Path, name: str) -> tuple[str, ...]:
    if name == "cifar10":
        return CIFAR10
    if (folder / "fine_label_names.txt").is_file():
        return tuple((folder / "fine_label_names.txt").read_text().split())
    if (folder / "meta").is_file():
        with open(folder / "meta", "rb") as file:
            return tuple(n.decode() for n in _Unpickler(file, encoding="bytes").load()[b"fine_label_names"])
    return tuple(str(i) for i in range(100))
