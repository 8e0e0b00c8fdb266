"""Makes fashion_mnist.tar from the Fashion-MNIST IDX files: `python -m epjax.data.demo.make IDX_FOLDER`.

The first 300 training and the first 50 test images of each class, gray JPEGs of quality 75 at 28x28, as
train/CLASS/*.JPEG and val/CLASS/*.JPEG. The tar is the same byte for byte wherever the same Pillow makes it.
"""

import io
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from epjax.data.demo import CLASSES, PATH
from epjax.data.sources.idx import read_idx

PER_CLASS = {"train": ("train", 300), "val": ("t10k", 50)}


def main(folder: Path) -> None:
    """Write the tar."""
    with tarfile.open(PATH, "w", format=tarfile.USTAR_FORMAT) as tar:
        for split, (prefix, count) in PER_CLASS.items():
            images = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")
            labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")
            for label, name in enumerate(CLASSES):
                for index in np.flatnonzero(labels == label)[:count]:
                    _add(tar, f"{split}/{name}/{split}_{index:05d}.JPEG", images[index])


def _add(tar: tarfile.TarFile, name: str, image: np.ndarray) -> None:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=75, optimize=True)
    member = tarfile.TarInfo(name)
    member.size = file.tell()
    file.seek(0)
    tar.addfile(member, file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
