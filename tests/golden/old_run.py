"""How tests/golden/run was made, with version 0.1: 6 of 12 steps of a tiny VGG5, and the metrics of all 12."""

import sys
from pathlib import Path

import numpy as np

from tests.data_forms import idx


def data(folder: Path) -> Path:
    """48 images and their labels, always the same."""
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 48), ("t10k", 16)):
        (folder / f"{split}-images-idx3-ubyte").write_bytes(idx(rng.integers(0, 256, (count, 28, 28))))
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(idx(np.arange(count) % 10))
    return folder


def arguments(folder: Path, workdir: Path, steps: int) -> list[str]:
    """The command's."""
    train = ["--width", "0.01", "--batch-size", "8", "--epochs", "2", "--log-every", "2", "--max-steps", str(steps)]
    return ["--workdir", str(workdir), "--dataset", "mnist", "--data", f"idx:{folder}", *train]


if __name__ == "__main__":
    from experiments import vgg5

    there = Path(sys.argv[1])
    for name, steps in (("run", 6), ("whole", 12)):
        vgg5.main(arguments(data(there / "data"), there / name, steps))
