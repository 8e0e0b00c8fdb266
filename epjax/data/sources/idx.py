"""MNIST and Fashion-MNIST in their original IDX files, gzipped or not."""

import gzip
from pathlib import Path

import numpy as np

from epjax.data.source import Dataset, Example, make_dataset

_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_CLASSES = {"mnist": tuple("0123456789"), "fashion_mnist": _FASHION}


class ArraySource:
    """Images that lie in memory: uint8 [N, H, W, C], their labels [N], and how to call them."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, name: str, num_classes: int) -> None:
        """ValueError where the numbers differ or a label is out of range."""
        if len(images) != len(labels):
            raise ValueError(f"{name} holds {len(images)} images but {len(labels)} labels")
        if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
            wrong = labels.max() if labels.max() >= num_classes else labels.min()
            raise ValueError(f"{name} holds label {wrong}; labels must lie in 0..{num_classes - 1}")
        self.images, self.labels, self.name = images, labels.astype(np.int32), name

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        """The pixels of one image [H, W, C]."""
        return Example(self.images[index], int(self.labels[index]), f"{self.name}[{index}]")


def read_idx(path: Path) -> np.ndarray:
    """The array of unsigned bytes in an IDX file; ValueError where the file is something else or cut short."""
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
        try:
            data = file.read()
        except (OSError, EOFError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from None
    if data[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is not an IDX file of unsigned bytes")
    rank = data[3]
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", rank, 4))
    if len(data) != 4 + 4 * rank + int(np.prod(shape)):
        raise ValueError(f"{path} must hold {shape} bytes after its header, but holds {len(data) - 4 - 4 * rank}")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def open_idx(path: Path) -> Dataset:
    """The data set in a folder with train-* and t10k-*; its first labels tell MNIST from Fashion-MNIST."""
    arrays = [
        read_idx(_find(path, f"{prefix}-{kind}"))
        for prefix in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    ]
    name = "fashion_mnist" if arrays[1][:5].tolist() == [9, 0, 0, 3, 0] else "mnist"
    train = ArraySource(arrays[0][..., None], arrays[1], f"{path}/train", 10)
    val = ArraySource(arrays[2][..., None], arrays[3], f"{path}/t10k", 10)
    origin = f"{name} in the IDX files of {path}"
    return make_dataset(name, train, val, _CLASSES[name], origin)


def _find(path: Path, stem: str) -> Path:
    for name in (f"{stem}-ubyte", f"{stem}-ubyte.gz", f"{stem.replace('-idx', '.idx')}-ubyte"):
        if (path / name).is_file():
            return path / name
    raise FileNotFoundError(f"{path / stem}-ubyte is missing, and so is {stem}-ubyte.gz")
