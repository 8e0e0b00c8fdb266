"""The embedded demos, see NOTICE: 3,500 Fashion-MNIST images as JPEGs in a tar of ImageNet's layout, and a text."""

from pathlib import Path

from epjax.data.source import Dataset, make_dataset
from epjax.data.sources.tar import open_tar

PATH = Path(__file__).parent / "fashion_mnist.tar"
TEXT = Path(__file__).parent / "coriolanus.txt"

CLASSES = (
    *("t_shirt_top", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle_boot"),
)
"""In Fashion-MNIST's own order; labels count in the sorted names, as for all class folders."""


def open_demo(reason: str = "") -> Dataset:
    """The demo; `reason` says why it was taken."""
    tar = open_tar(PATH, cache=False)
    origin = f"the embedded demo (Fashion-MNIST){reason}"
    return make_dataset("demo", tar.train, tar.val, tar.classes, origin)
