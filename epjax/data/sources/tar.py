"""Images in tars, read in place: one pass over the headers gives each image's offset, after that `os.pread` reads it.

Two layouts: the ILSVRC2012 tars as downloaded (a folder with ILSVRC2012_img_train.tar, a tar of one tar a class, and
ILSVRC2012_img_val.tar, flat), or one tar with train/CLASS/* and val/CLASS/* (test/ where there is no val/).
"""

import functools
import importlib.util
import logging
import os
import tarfile
import warnings
import weakref
from array import array
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from epjax.data.source import (
    IMAGE_SUFFIXES,
    LITTER,
    Dataset,
    Example,
    canonical_order,
    digest,
    first_few,
    is_class,
    make_dataset,
    recipe_of,
    refuse_unknown,
)
from epjax.data.sources import cache as kept

logger = logging.getLogger(__name__)

TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
_BLOCK = 512
_COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}


class Index(NamedTuple):
    """The images of one split: 20 bytes an image. `classes` are the split's own, sorted; labels count in them.

    `empty` names the members of 0 bytes, which are no images.
    """

    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    classes: np.ndarray
    empty: np.ndarray


class TarSource:
    """Images at known offsets of one tar; safe to read from many threads and processes."""

    def __init__(self, path: Path, index: Index, classes: tuple[str, ...]) -> None:
        """`classes` are those of the training images; others in the index raise ValueError."""
        rank = {name: k for k, name in enumerate(classes)}
        refuse_unknown(path, index.classes.tolist(), classes)
        translate = np.array([rank[c] for c in index.classes.tolist()], np.int32)
        self.path, self.offsets, self.sizes = str(path), index.offsets, index.sizes
        self.labels = translate[index.labels]

    @functools.cached_property
    def _file(self) -> int:
        file = os.open(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, file)
        return file

    def __getstate__(self) -> dict[str, object]:
        """Everything but the open file."""
        return {k: v for k, v in vars(self).items() if k != "_file"}

    def __len__(self) -> int:
        """The number of images."""
        return len(self.offsets)

    def __getitem__(self, index: int) -> Example:
        """The bytes of one member; its name comes from the header, which lies right before them."""
        size = int(self.sizes[index])
        block = os.pread(self._file, _BLOCK + size, int(self.offsets[index]) - _BLOCK)
        return Example(block[_BLOCK:], int(self.labels[index]), f"{self.path}:{os.fsdecode(_name(block))}")


def members(file: int, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(name, offset, size) of every file in the tar that lies at bytes start..end of an open file.

    Knows ustar prefixes, GNU long names and sizes, and pax paths and sizes. ValueError where it is no tar or cut short.
    """
    position, long_name, long_size = start, b"", None
    while position + _BLOCK <= end:
        header = os.pread(file, _BLOCK, position)
        if not header.strip(b"\0"):
            return
        if header[257:262] != b"ustar" and not _checksum_agrees(header):
            raise ValueError(f"what lies at byte {position} is not the header of a tar")
        size, offset, kind = _size(header), position + _BLOCK, header[156:157]
        if kind in (b"0", b"\0", b"7"):
            size = size if long_size is None else long_size
        if offset + size > end:
            raise ValueError(f"it is cut short: {os.fsdecode(_name(header))} ends at byte {offset + size} of {end}")
        if kind == b"L":
            long_name = os.pread(file, size, offset).rstrip(b"\0")
        elif kind == b"x":
            pax = _pax(os.pread(file, size, offset))
            long_name = pax.get(b"path", b"")
            long_size = int(pax[b"size"]) if b"size" in pax else None
        elif kind != b"g":
            if kind in (b"0", b"\0", b"7"):
                yield long_name or _name(header), offset, size
            long_name, long_size = b"", None
        position = offset + -(-size // _BLOCK) * _BLOCK


def _name(header: bytes) -> bytes:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _size(header: bytes) -> int:
    if header[124] & 0x80:  # GNU: base 256
        return int.from_bytes(header[125:136], "big")
    return int(header[124:136].rstrip(b" \0") or b"0", 8)


def _checksum_agrees(header: bytes) -> bool:
    given = header[148:156].strip(b" \0")
    return given.isdigit() and sum(header) - sum(header[148:156]) + 8 * 32 == int(given, 8)


def _pax(records: bytes) -> dict[bytes, bytes]:
    found = {}
    while records:
        length = int(records.split(b" ", 1)[0])
        key, _, value = records[:length].split(b" ", 1)[1].rstrip(b"\n").partition(b"=")
        found[key], records = value, records[length:]
    return found


class _Builder:
    """Collects the images of one split in flat arrays: 1.28 million members fit in about 60 MB."""

    def __init__(self, split: str) -> None:
        self.split, self.classes = split, dict[bytes, int]()
        self.offsets, self.sizes, self.labels, self.digests = array("q"), array("q"), array("i"), bytearray()
        self.empty: list[str] = []

    def add(self, folder: bytes, file: bytes, offset: int, size: int) -> None:
        if not size:
            self.empty.append(os.fsdecode(folder + b"/" + file))
            return
        self.offsets.append(offset)
        self.sizes.append(size)
        self.labels.append(self.classes.setdefault(folder, len(self.classes)))
        self.digests += digest(self.split, file)

    def index(self) -> Index:
        names = [os.fsdecode(c) for c in self.classes]
        classes = sorted(names)
        translate = np.array([classes.index(n) for n in names], np.int32)
        labels = translate[np.asarray(self.labels, np.int32)] if names else np.zeros(0, np.int32)
        order = canonical_order(self.digests, labels)
        columns = np.asarray(self.offsets, np.int64)[order], np.asarray(self.sizes, np.int64)[order], labels[order]
        return Index(*columns, np.array(classes), np.array(self.empty, np.str_))


def scan_class_folders(file: int, end: int) -> dict[str, Index]:
    """The indices of train and val in one tar of .../SPLIT/CLASS/IMAGE."""
    builders = {split: _Builder(split) for split in ("train", "val", "validation", "test")}
    for name, offset, size in members(file, 0, end):
        parts = name.rsplit(b"/", 3)
        if len(parts) >= 3 and name.lower().endswith(_SUFFIXES) and not _is_litter(name):
            builder = builders.get(os.fsdecode(parts[-3]))
            if builder:
                builder.add(parts[-2], parts[-1], offset, size)
    val = next((builders[v] for v in ("val", "validation", "test") if builders[v].classes), builders["val"])
    return {"train": builders["train"].index(), "val": val.index()}


def scan_nested(file: int, end: int) -> dict[str, Index]:
    """The index of ILSVRC2012_img_train.tar: one tar WNID.tar a class."""
    builder = _Builder("train")
    for name, start, length in members(file, 0, end):
        if name.endswith(b".tar"):
            for image, offset, size in members(file, start, start + length):
                if _is_litter(image):
                    continue
                builder.add(name.rpartition(b"/")[2][:-4], image.rpartition(b"/")[2], offset, size)
    return {"train": builder.index()}


def scan_val(file: int, end: int) -> dict[str, Index]:
    """The index of ILSVRC2012_img_val.tar, whose images ..._val_00000001.JPEG have their classes in a list."""
    builder, classes = _Builder("val"), _validation_classes()
    for name, offset, size in members(file, 0, end):
        image = name.rpartition(b"/")[2]
        number = image.rpartition(b".")[0].rpartition(b"_")[2]
        if not number.isdigit() or not 1 <= int(number) <= len(classes):
            raise ValueError(f"{os.fsdecode(name)} is not named like ILSVRC2012_val_00000001.JPEG")
        builder.add(classes[int(number) - 1], image, offset, size)
    return {"val": builder.index()}


def _is_litter(name: bytes) -> bool:
    """Whether a member is none of the data set's: it, or its class, has a name that no image or class has."""
    *folders, image = name.split(b"/")
    hidden = image.startswith(b".") or (folders[-1:] not in ([], [b"."]) and not is_class(os.fsdecode(folders[-1])))
    return hidden or any(os.fsdecode(f) in LITTER for f in folders)


_SUFFIXES = tuple(s.encode() for s in IMAGE_SUFFIXES)
_SCANS = {"class_folders": scan_class_folders, "nested": scan_nested, "val": scan_val}


def _validation_classes() -> list[bytes]:
    """The WNIDs of the 50,000 validation images, in order: the list that comes with tensorflow-datasets."""
    package = importlib.util.find_spec("tensorflow_datasets")
    assert package is not None
    assert package.origin is not None
    return (Path(package.origin).parent / "datasets/imagenet2012/validation_labels.txt").read_bytes().split()


def build_index(path: Path, layout: str, cache: bool = True) -> dict[str, Index]:
    """The indices of a tar, from the user's cache where it knows this very file, else by one pass over the headers."""
    status = path.stat()
    key = f"2 {layout} {path.resolve()} {status.st_size} {status.st_mtime_ns}"
    if cache:
        columns = kept.load(path.stem, key)
        with suppress(KeyError):
            splits = sorted({name.split(".")[0] for name in columns})
            if splits:
                return {s: Index(*(columns[f"{s}.{field}"] for field in Index._fields)) for s in splits}
    indices = _scan(path, layout, status.st_size)
    if cache:
        columns = {f"{s}.{k}": v for s, index in indices.items() for k, v in index._asdict().items()}
        kept.save(path.stem, key, columns)
    return indices


def _scan(path: Path, layout: str, size: int) -> dict[str, Index]:
    file = os.open(path, os.O_RDONLY)
    try:
        start = os.pread(file, 6, 0)
        for magic, tool in _COMPRESSED.items():
            if start.startswith(magic):
                raise ValueError(f"{path} is compressed, and images are read in place: run {tool} on it first")
        if hasattr(os, "posix_fadvise"):  # Headers lie far apart: reading ahead would read every image.
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
        logger.info("indexing %s", path)
        return _SCANS[layout](file, size)
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path} cannot be read: {error}") from None
    finally:
        os.close(file)


def open_tar(path: Path, cache: bool = True) -> Dataset:
    """The data set in a tar of class folders, or in a folder with the two ILSVRC2012 tars."""
    if path.is_dir():
        paths = [path / TRAIN_TAR, path / VAL_TAR]
        missing = [p for p in paths if not p.exists()]
        if missing:
            raise FileNotFoundError(f"{missing[0]} is missing: {path} must hold {TRAIN_TAR} and {VAL_TAR}")
        indices = build_index(paths[0], "nested", cache) | build_index(paths[1], "val", cache)
    elif path.exists():
        paths = [path, path]
        indices = build_index(path, "class_folders", cache)
    else:
        raise FileNotFoundError(f"the tar {path} does not exist")
    _warn_of_empty(paths, indices)
    for split in ("train", "val"):
        if not len(indices[split].offsets):
            layout = "WNID.tar/*" if path.is_dir() and split == "train" else f"{split}/CLASS/*"
            raise ValueError(f"{paths[split == 'val']} holds no {split} image: its members must be {layout}")
    classes = tuple(indices["train"].classes.tolist())
    train, val = (TarSource(p, indices[s], classes) for p, s in zip(paths, ("train", "val"), strict=True))
    recipe, origin = recipe_of(classes), f"images in {path}, read in place"
    return make_dataset(recipe, train, val, classes, origin, path.stem if recipe == "imagenet" else recipe)


def _warn_of_empty(paths: list[Path], indices: dict[str, Index]) -> None:
    """One warning names the members without bytes that were left out."""
    splits = ("train", "val")
    names = [f"{path}:{name}" for path, split in zip(paths, splits, strict=True) for name in indices[split].empty]
    if names:
        count = f"{len(names)} file{'s' * (len(names) > 1)}"
        warnings.warn(f"left out, for they have no bytes, {count}: {first_few(names)}", stacklevel=4)


def open_unsplit(path: Path) -> Dataset:
    """A small tar of CLASS/IMAGE without splits, read into memory: every image serves for training and validation.

    For measurements on real images, not for learning: there is nothing to test on. A class is its place among the
    sorted names.
    """
    with tarfile.open(path) as tar:
        files = {m.name: file.read() for m in tar if m.isfile() and (file := tar.extractfile(m))}
    classes = sorted({name.split("/")[0] for name in files})
    examples = [Example(files[name], classes.index(name.split("/")[0]), name) for name in sorted(files)]
    return make_dataset("imagenet", examples, examples, classes, f"{len(examples)} images in {path}", path.stem)
