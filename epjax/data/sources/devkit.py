"""ILSVRC2012's development kit: the true classes of the 50,000 validation images, and what the WordNet IDs mean.

Unpacked (`meta.mat` and `ILSVRC2012_validation_ground_truth.txt`), or as `ILSVRC2012_devkit_t12.tar.gz`.
"""

import io
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from epjax.extras import extra

ARCHIVE, META, TRUTH = "ILSVRC2012_devkit_t12.tar.gz", "meta.mat", "ILSVRC2012_validation_ground_truth.txt"


class Synsets(NamedTuple):
    """Of each class, by the kit's own number: its WordNet ID; and by that, its words."""

    wnids: dict[int, str]
    words: dict[str, str]


def find(place: Path, name: str) -> Path | None:
    """The file of the kit, or the archive it is in, that a folder holds."""
    files = (place / name, place / "data" / name, place / "ILSVRC2012_devkit_t12" / "data" / name, place / ARCHIVE)
    return next((file for file in files if file.is_file()), None)


def synsets(path: Path) -> Synsets:
    """What meta.mat says, itself or in the archive. ValueError where it cannot be read."""
    with extra("imagenet"):
        from scipy.io import loadmat
    content = _content(path, META)
    try:
        table = np.atleast_1d(loadmat(io.BytesIO(content), squeeze_me=True)["synsets"])
        numbers, wnids, words = (table[name].tolist() for name in ("ILSVRC2012_ID", "WNID", "words"))
    except Exception as error:  # what the reader raises for bytes that are no such file has no common name
        raise ValueError(f"{path} holds no table of synsets as meta.mat of ILSVRC2012 does") from error
    return Synsets({int(n): str(w) for n, w in zip(numbers, wnids, strict=True)}, dict(zip(wnids, words, strict=True)))


def truth(path: Path) -> list[int]:
    """The number of the class of each validation image, in order. ValueError where a line is no number."""
    lines = _content(path, TRUTH).split()
    wrong = next((line for line in lines if not line.isdigit()), None)
    if wrong is not None:
        raise ValueError(
            f"{path} must hold a number of a class in each line, but holds {wrong.decode(errors='replace')!r}"
        )
    return [int(line) for line in lines]


def _content(path: Path, name: str) -> bytes:
    if path.name != ARCHIVE:
        return path.read_bytes()
    try:
        with tarfile.open(path, "r:gz") as tar:
            member = next((m for m in tar if m.isfile() and m.name.rpartition("/")[2] == name), None)
            file = None if member is None else tar.extractfile(member)
            if file is not None:
                return file.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    raise ValueError(f"{path} holds no {name}")
