"""The data sets of the figures, by name, in one folder."""

from dataclasses import dataclass, replace
from pathlib import Path

from epjax.data import Dataset, Example, Source, open_dataset
from epjax.data.sources.tar import open_unsplit

# What a data set may be called in the folder, and where it comes from.
PLACES: dict[str, tuple[tuple[str, ...], str]] = {
    "mnist": (("mnist",), "the four IDX files of https://yann.lecun.org/exdb/mnist"),
    "fashion_mnist": (("fashion_mnist",), "the four IDX files of https://github.com/zalandoresearch/fashion-mnist"),
    "cifar10": (
        ("cifar10.tar", "cifar10", "cifar-10-batches-bin", "cifar-10-batches-py"),
        "an archive of https://www.cs.toronto.edu/~kriz/cifar.html, unpacked, or a tar of train/CLASS/*, test/CLASS/*",
    ),
    "tiny_imagenet_20": (
        ("tiny_imagenet_20.tar", "tiny_imagenet_20"),
        "train/WNID/* and val/WNID/* of 20 classes of Tiny ImageNet (https://cs231n.stanford.edu/tiny-imagenet-200.zip)",
    ),
    "imagenet_sample": (("imagenet_sample.tar",), "a tar of WNID/*.JPEG, some images of ImageNet-1k"),
}


@dataclass(frozen=True)
class First:
    """The first `count` examples of a source, whose order has nothing to do with their classes."""

    source: Source
    count: int

    def __len__(self) -> int:
        """`count`."""
        return self.count

    def __getitem__(self, index: int) -> Example:
        """The example at `index`, which the caller keeps below `count`."""
        return self.source[index]


def open_data(name: str, folder: Path, train_images: int | None = None, val_images: int | None = None) -> Dataset:
    """The data set of that name in `folder`, its splits cut to so many images.

    Raises FileNotFoundError that says where the data come from, ValueError for more images than there are.
    """
    if name == "demo":  # it comes with the package
        return open_dataset(name)
    names, origin = PLACES[name]
    found = [folder / n for n in names if (folder / n).exists()]
    if not found:
        raise FileNotFoundError(f"--data {folder} has no {' or '.join(names)}: put there {origin}")
    dataset = open_unsplit(found[0]) if name == "imagenet_sample" else open_dataset(str(found[0]))
    train, val = _cut(dataset.train, train_images, name), _cut(dataset.val, val_images, name)
    return replace(dataset, name=name, train=train, val=val)


def _cut(source: Source, count: int | None, name: str) -> Source:
    if count is None or count == len(source):
        return source
    if not 0 < count <= len(source):
        raise ValueError(f"a figure asks for {count} images of {name}, which has {len(source)}")
    return First(source, count)
