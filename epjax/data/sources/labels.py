"""Classes of images that lie in one folder: by ILSVRC2012's development kit, Kaggle's list, or lines NAME LABEL."""

import csv
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from epjax.data.source import first_few
from epjax.data.sources import devkit

KAGGLE = "LOC_val_solution.csv"
ALLOWED = f"{devkit.ARCHIVE} (or {devkit.TRUTH} and {devkit.META}), {KAGGLE}, or a text or CSV file of lines NAME LABEL"

_NUMBERED = re.compile(r".*_(\d{8})\.\w+")

Labelled = tuple[list[str], Path]
"""The class of each image, and the file that says so."""


def places(path: Path) -> list[Path]:
    """The folders in which the lists that come with the images at `path` may lie."""
    path = path.parent if path.is_file() else path
    found = [path / "val", path / "validation", path / "test", path]
    for above, tail in enumerate(("ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC")):
        found += [whole.parents[above] for whole in (path.absolute(), path.resolve()) if whole.match(tail)]
    return [place for place in dict.fromkeys(found) if place.is_dir()]


def find_labels(images: Sequence[str], where: Sequence[Path], classes: Sequence[str]) -> Labelled | None:
    """The classes of the images called so, by the first list there is in the folders `where`; None: there is none.

    ValueError where the list lacks an image, names no class, or two lists of lines disagree.
    """
    readers: tuple[Callable[[Path, Sequence[str], Sequence[str]], Labelled | None], ...] = (
        _of_devkit,
        _of_kaggle,
        _of_lines,
    )
    return next((found for read in readers for place in where if (found := read(place, images, classes))), None)


def _of_devkit(place: Path, images: Sequence[str], classes: Sequence[str]) -> Labelled | None:
    file = devkit.find(place, devkit.TRUTH)
    if file is None:
        return None
    meta = devkit.find(place, devkit.META)
    if meta is None:
        raise FileNotFoundError(
            f"{file} holds numbers of classes, and {devkit.META}, which names them, is not beside it"
        )
    numbers = [int(found[1]) if (found := _NUMBERED.fullmatch(name)) else 0 for name in images]
    if not any(numbers):
        return None
    truth, wnids = devkit.truth(file), devkit.synsets(meta).wnids
    unknown = sorted(set(truth) - set(wnids))
    if unknown:
        raise ValueError(f"{file} holds class {unknown[0]}, which {meta} does not know")
    for name, number in zip(images, numbers, strict=True):
        if not 1 <= number <= len(truth):
            raise ValueError(f"{name} is not named like ILSVRC2012_val_00000001.JPEG, with a number up to {len(truth)}")
    return [wnids[truth[number - 1]] for number in numbers], file


def _of_kaggle(place: Path, images: Sequence[str], classes: Sequence[str]) -> Labelled | None:
    file = place / KAGGLE
    if not file.is_file():
        return None
    # ImageId,PredictionString: the string is WNID x y x y, as often as there are boxes
    listed = {row[0]: (row[1].split() or [""])[0] for row in rows(file) if len(row) == 2}
    return each(images, listed, file), file


def _of_lines(place: Path, images: Sequence[str], classes: Sequence[str]) -> Labelled | None:
    """By the lists in a folder that have two columns, of which the first names images; they must agree."""
    wanted, found = {*images, *map(_stem, images)}, list[Labelled]()
    for file in sorted(place.iterdir()):
        if file.suffix.lower() in (".txt", ".csv", ".tsv") and file.name[0] != "." and file.is_file():
            listed = _two_columns(file, wanted, classes)
            if not wanted.isdisjoint(listed):
                found.append((each(images, _named(listed, classes, file), file), file))
    for labels, file in found[1:]:
        for name, label, other in zip(images, found[0][0], labels, strict=True):
            if label != other:
                raise ValueError(
                    f"{found[0][1]} says that {name} is {label}, and {file} that it is {other}: keep one of them"
                )
    return found[0] if found else None


def _two_columns(file: Path, wanted: Collection[str], classes: Collection[str]) -> dict[str, str]:
    """The second column of a list by the first, without folders; rows that have more columns are of other lists."""
    listed: dict[str, str] = {}
    for row in rows(file):
        if len(row) == 2 and (" " not in row[1] or row[1] in classes):
            name = row[0].replace("\\", "/").rpartition("/")[2]
            if listed.setdefault(name, row[1]) != row[1] and name in wanted:
                raise ValueError(f"{file} says both that {name} is {listed[name]} and that it is {row[1]}")
    return listed


def rows(file: Path) -> Iterator[list[str]]:
    """The lines of a list in columns: between tabs, else commas or semicolons, else by the first space."""
    for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        separator = next((s for s in "\t,;" if s in line), None)
        cells = next(csv.reader([line], delimiter=separator)) if separator else line.split(None, 1)
        if cells:
            yield [cell.strip() for cell in cells]


def _named(listed: dict[str, str], classes: Sequence[str], file: Path) -> dict[str, str]:
    """The list with names of classes. One of numbers counts the sorted classes from 0, and must count all of them."""
    first, *others = listed.values()
    labels = {first, *others} if first.isdigit() or not others else set(others)  # the first row may be a header
    if any(c.isdigit() for c in classes) or not all(label.isdigit() for label in labels):
        return listed
    numbers = sorted(map(int, labels))
    if numbers != list(range(len(classes))):
        counted = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
        raise ValueError(
            f"{file} numbers the classes {counted} ({len(numbers)} of them), and the training images have"
            f" {len(classes)}: numbers must run from 0 to {len(classes) - 1}, or be names of classes"
        )
    return {name: classes[int(label)] for name, label in listed.items() if label.isdigit()}


def each(images: Sequence[str], listed: dict[str, str], file: Path) -> list[str]:
    """The class of each image, which the list has with or without the suffix."""
    labels = [listed.get(name) or listed.get(_stem(name)) or "" for name in images]
    missing = [name for name, label in zip(images, labels, strict=True) if not label]
    if missing:
        raise ValueError(f"{file} has no class for {len(missing)} of {len(images)} images: {first_few(missing)}")
    return labels


def _stem(name: str) -> str:
    return name.rpartition(".")[0]
