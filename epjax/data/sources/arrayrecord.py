"""Data sets that tensorflow-datasets prepared as ArrayRecord files, read without tensorflow."""

from pathlib import Path
from typing import Any

from epjax.data.source import RECIPES, Dataset, Example, make_dataset
from epjax.extras import extra

_RECIPES = {"imagenet2012": "imagenet", "imagenet_resized/32x32": "imagenet32"}


class ArrayRecordSource:
    """One split, as its image files' bytes: nothing is decoded here."""

    def __init__(self, builder: Any, split: str, num_classes: int) -> None:
        with extra("tfds"):
            import tensorflow_datasets as tfds

        self._records = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
        self._name, self._num_classes = f"{builder.data_dir}/{split}", num_classes

    def __len__(self) -> int:
        """The number of images."""
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        """The encoded image of one record; ValueError where its label is out of range."""
        record = self._records[index]
        name = f"{self._name}[{index}]"
        if "file_name" in record:
            name += f" ({record['file_name'].decode()})"
        if not 0 <= record["label"] < self._num_classes:
            raise ValueError(f"{name} has label {record['label']}; labels must lie in 0..{self._num_classes - 1}")
        return Example(record["image"], int(record["label"]), name)


def find_prepared(path: Path, name: str = "") -> Path | None:
    """The newest version, a folder with a dataset_info.json: of data set `name` in `path`, or of the only one there."""
    patterns = (f"{name}/*",) if name else ("*", "*/*", "*/*/*")
    if (path / "dataset_info.json").is_file():
        return path
    for pattern in patterns:
        folders = [file.parent for file in path.glob(f"{pattern}/dataset_info.json") if "incomplete" not in str(file)]
        if len({folder.parent for folder in folders}) > 1:
            names = sorted(str(folder.parent.relative_to(path)) for folder in folders)
            raise ValueError(f"{path} holds several data sets, {' and '.join(names)}: give tfds:NAME@{path}")
        if folders:
            return max(folders, key=_version)
    return None


def _version(folder: Path) -> tuple[int, ...]:
    return tuple(int(n) if n.isdigit() else -1 for n in folder.name.split("."))


def open_arrayrecord(spec: str) -> Dataset:
    """The data set that NAME@DIR means; DIR is tensorflow-datasets' data folder, or the prepared folder itself."""
    name, at, directory = spec.partition("@")
    path = Path(directory).expanduser()
    if not (name and at and directory):
        raise ValueError(f"tfds data are given as tfds:NAME@DIR, for example tfds:imagenet2012@DIR, not tfds:{spec}")
    folder = find_prepared(path, name)
    if folder is None:
        raise FileNotFoundError(
            f"{path / name} holds no prepared data set (no VERSION/dataset_info.json): prepare it with "
            f"tensorflow-datasets and file_format='array_record', or give the folder that has {name}/ in it"
        )
    return open_prepared(folder, name)


def open_prepared(folder: Path, name: str = "") -> Dataset:
    """The data set in a prepared folder; `name`, where it is given, must be the one that was prepared."""
    with extra("tfds"):
        import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder)
    info = builder.info
    found = "/".join(filter(None, (builder.name, builder.builder_config and builder.builder_config.name)))
    if name and name != found:
        raise ValueError(f"{folder} holds {found}, not {name}")
    if info.file_format is None or info.file_format.value != "array_record":
        raise ValueError(
            f"{folder} holds {getattr(info.file_format, 'value', 'other')} files, which are not random "
            "access: prepare it again with file_format='array_record'"
        )
    val = next((s for s in ("validation", "test") if s in info.splits), None)
    if "train" not in info.splits or val is None or not {"image", "label"} <= set(info.features):
        raise ValueError(
            f"{folder} must have images and labels in a train and a validation or test split, but has "
            f"{', '.join(info.features)} in {', '.join(info.splits) or 'no split'}"
        )
    classes = tuple(info.features["label"].names)
    train, test = (ArrayRecordSource(builder, split, len(classes)) for split in ("train", val))
    origin = f"{found} in the ArrayRecord files of {folder}, {val} to validate"
    recipe = _RECIPES.get(found, found)
    return make_dataset(recipe if recipe in RECIPES else "imagenet", train, test, classes, origin, recipe)
