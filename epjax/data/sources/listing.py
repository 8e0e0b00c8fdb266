"""The names of the images in folders: listed once, kept in the user's cache, listed again where a folder changed."""

import errno
import os
import stat
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

from epjax.data.source import first_few, is_class, is_image
from epjax.data.sources import cache

THREADS = 8
"""Folders that are listed at once: a disk that is far away answers many questions as fast as one."""

SETTLED = 2_000_000_000
"""Nanoseconds: a folder that changed less than this before it was listed may change again by the same clock."""


class Folder(NamedTuple):
    """The names of the images in a folder, as bytes; `stamp` holds its times of change, 0 if it changed just now.

    `left_out` names the files of 0 bytes and the links that lead nowhere, which are no images.
    """

    names: np.ndarray
    stamp: tuple[int, int]
    left_out: tuple[str, ...] = ()


class Listings:
    """A context in which the folders below `root` are listed; at its end one warning names the files left out."""

    def __init__(self, root: Path) -> None:
        self._root, self._key = str(root), f"listing 1 {root.resolve()}"
        self._stem = root.resolve().name
        self._known, self._seen = _unpacked(cache.load(self._stem, self._key)), dict[str, Folder]()
        self._stale = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        settled = {name: folder for name, folder in self._seen.items() if folder.stamp != (0, 0)}
        if kind is None and self._stale and settled:
            cache.save(self._stem, self._key, _packed(settled))
        left_out = sorted(name for folder in self._seen.values() for name in folder.left_out)
        if left_out:
            count = f"{len(left_out)} file{'s' * (len(left_out) > 1)}"
            warnings.warn(
                f"left out, for they have no bytes or are links that lead nowhere, {count}: {first_few(left_out)}",
                stacklevel=3,
            )

    def images(self, folders: Sequence[Path]) -> list[list[bytes]]:
        """The names of the images in each folder, in no order; none for a folder that is not there."""
        with ThreadPoolExecutor(THREADS) as pool:
            found = list(_told(pool.map(self._folder, map(str, folders)), len(folders), self._root))
        return [folder.names.tolist() for folder in found]

    def _folder(self, path: str) -> Folder:
        name = os.path.relpath(path, self._root)
        folder = self._known.get(name)
        if folder is None or folder.stamp != _stamp(path):
            folder, self._stale = listed(path), True
        self._seen[name] = folder
        return folder


def listed(path: str) -> Folder:
    """What is in a folder now. A link is followed to its file; one that leads nowhere, or in a circle, is left out."""
    stamp, names, left_out = _stamp(path), [], []
    if stamp == (0, 0):
        return Folder(np.zeros(0, "S1"), stamp)
    with os.scandir(path) as entries:
        for entry in entries:
            if is_image(entry.name):
                kind, size = _kind_and_size(entry)
                if stat.S_ISREG(kind) and size:
                    names.append(os.fsencode(entry.name))
                elif stat.S_ISREG(kind) or kind == 0:
                    left_out.append(entry.path)
    settled = not left_out and time.time_ns() - stamp[0] > SETTLED
    return Folder(np.array(names, np.bytes_), stamp if settled else (0, 0), tuple(left_out))


def class_folders(root: Path) -> list[str]:
    """The classes of a split, sorted. A link is followed, but not one to `root` or to a folder that `root` lies in."""
    above, found = os.path.realpath(root), []
    for entry in os.scandir(root):
        if is_class(entry.name):
            circle = entry.is_symlink() and f"{above}/".startswith(
                f"{os.path.realpath(entry.path)}/".replace("//", "/")
            )
            if not circle and stat.S_ISDIR(_kind_and_size(entry)[0]):
                found.append(entry.name)
    return sorted(found)


def holds_images(folder: Path) -> bool:
    """Whether there is a file in a folder whose name is an image's."""
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(is_image(e.name) and stat.S_ISREG(_kind_and_size(e)[0]) for e in entries)


def _kind_and_size(entry: os.DirEntry[str]) -> tuple[int, int]:
    """Of what an entry is or leads to; (0, 0) where it leads nowhere or in a circle."""
    try:
        status = entry.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
            return 0, 0
        raise
    return status.st_mode, status.st_size


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return 0, 0
    return status.st_mtime_ns, status.st_ctime_ns


def _packed(folders: dict[str, Folder]) -> dict[str, np.ndarray]:
    return {
        "folders": np.array([os.fsencode(name) for name in folders], np.bytes_),
        "stamps": np.array([folder.stamp for folder in folders.values()], np.uint64).reshape(-1, 2),
        "counts": np.array([len(folder.names) for folder in folders.values()], np.int64),
        "names": np.concatenate([np.zeros(0, "S1"), *(folder.names for folder in folders.values())]),
    }


def _unpacked(columns: dict[str, np.ndarray]) -> dict[str, Folder]:
    if not columns:
        return {}
    names = np.split(columns["names"], np.cumsum(columns["counts"])[:-1])
    stamps = map(tuple, columns["stamps"].tolist())
    paths = map(os.fsdecode, columns["folders"].tolist())
    return {path: Folder(n, stamp) for path, n, stamp in zip(paths, names, stamps, strict=True)}


def _told(folders: Iterable[Folder], total: int, root: str) -> Iterator[Folder]:
    """`folders`, with how far it has got on the standard error: from the second second on, a line that moves at a
    terminal, a line every two seconds elsewhere."""
    live = sys.stderr.isatty()
    said, every, images = time.monotonic() + 0.8 * live, 0.2 if live else 2.0, 0
    begun = False
    for done, folder in enumerate(folders, start=1):
        yield folder
        images += len(folder.names)
        if time.monotonic() - said > every:
            said, begun = time.monotonic(), True
            line = f"listing {root}: {done:,} of {total:,} folders, {images:,} images"
            print(f"\r{line}" if live else line, end="" if live else "\n", file=sys.stderr, flush=True)
    if begun and live:
        print(file=sys.stderr)
