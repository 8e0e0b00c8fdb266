"""Tiny data sets for the tests of the data."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.forms import Images
from epjax.data import Example, PadCropFlip


def jpeg(rng: np.random.Generator, size: tuple[int, int] = (24, 20), **options) -> bytes:
    """A JPEG of noise."""
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(file, "JPEG", **options)
    return file.getvalue()


def few_images(classes: tuple[str, ...] = ("cat", "dog", "eel"), train: int = 5, val: int = 2, seed: int = 0) -> Images:
    """A few small JPEGs in each class."""
    rng = np.random.default_rng(seed)
    counts = {"train": train, "val": val}
    return Images({s: {c: {f"{c}_{i}.JPEG": jpeg(rng) for i in range(n)} for c in classes} for s, n in counts.items()})


def tiny_imagenet(train: int = 1, val: int = 30) -> Images:
    """One image of each of ImageNet's 1000 classes, and its first validation images, each in its true class."""
    import tensorflow_datasets

    lists = Path(tensorflow_datasets.__file__).parent / "datasets" / "imagenet2012"
    classes = (lists / "labels.txt").read_text().split()
    true = (lists / "validation_labels.txt").read_text().split()
    rng = np.random.default_rng(0)
    images = {c: {f"{c}_{i + 17}.JPEG": jpeg(rng, (12, 9)) for i in range(train)} for c in classes}
    validation: dict[str, dict[str, bytes]] = {}
    for i in range(val):
        validation.setdefault(true[i], {})[f"ILSVRC2012_val_{i + 1:08d}.JPEG"] = jpeg(rng, (12, 9))
    return Images({"train": images, "val": validation})


class Pixels:
    """n images, each filled with its index; some of them are no images."""

    def __init__(self, n: int, bad: tuple[int, ...] = ()):
        self.n, self.bad = n, bad

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Example:
        image = b"no image" if i in self.bad else np.full((4, 4, 3), i, np.uint8)
        return Example(image, i, f"image {i}")


CROP = PadCropFlip(4, pad=0)


def idx(array: np.ndarray) -> bytes:
    """An IDX file of unsigned bytes."""
    header = b"\0\0\x08" + bytes([array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()
