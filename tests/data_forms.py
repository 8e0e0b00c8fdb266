"""Makes the same tiny data set in each form that epjax.data reads; used by the tests of the data."""

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from epjax.data import Example, PadCropFlip


def jpeg(rng: np.random.Generator, size: tuple[int, int] = (24, 20), **options) -> bytes:
    """A JPEG of noise."""
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(file, "JPEG", **options)
    return file.getvalue()


@dataclass
class Images:
    """split -> class -> file name -> bytes, with `train` and `val`."""

    splits: dict[str, dict[str, dict[str, bytes]]]

    def folder(self, root: Path, val: str = "val") -> Path:
        for split, classes in self.splits.items():
            for name, files in classes.items():
                folder = root / split.replace("val", val) / name
                folder.mkdir(parents=True)
                for file, content in files.items():
                    (folder / file).write_bytes(content)
        return root

    def class_tar(self, path: Path, val: str = "val", format: int = tarfile.GNU_FORMAT) -> Path:
        with tarfile.open(path, "w", format=format) as tar:
            for split, classes in self.splits.items():
                for name, files in classes.items():
                    for file, content in files.items():
                        add(tar, f"./{split.replace('val', val)}/{name}/{file}", content)
        return path

    def ilsvrc_tars(self, root: Path) -> Path:
        root.mkdir(parents=True, exist_ok=True)
        with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as tar:
            for name, files in reversed(self.splits["train"].items()):
                inner = io.BytesIO()
                with tarfile.open(fileobj=inner, mode="w") as nested:
                    for file, content in reversed(files.items()):
                        add(nested, file, content)
                add(tar, f"{name}.tar", inner.getvalue())
        with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as tar:
            for file, content in sorted(pair for files in self.splits["val"].values() for pair in files.items()):
                add(tar, file, content)
        return root

    def array_record(self, root: Path, name: str = "imagenet2012") -> Path:
        """As tensorflow-datasets would write it: its order, its metadata; without tensorflow."""
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.hashing import Hasher

        classes = sorted(self.splits["train"])
        folder = root / name / "5.1.0"
        folder.mkdir(parents=True)
        splits = []
        for split, salt in (("train", "train"), ("val", "validation")):
            hasher = Hasher(salt)
            files = [
                (hasher.hash_key(f), classes.index(c), f, b)
                for c, g in self.splits[split].items()
                for f, b in g.items()
            ]
            records = [_tf_example(content, label, file) for _, label, file, content in sorted(files)]
            splits.append(_write_records(folder, name, salt, records))
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(names=classes),
                "file_name": tfds.features.Text(),
            }
        )
        tfds.folder_dataset.write_metadata(
            data_dir=str(folder),
            features=features,
            split_infos=splits,
            filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            check_data=False,
        )
        return root


def _tf_example(image: bytes, label: int, file_name: str) -> bytes:
    from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

    def text(value: bytes):
        return tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=[value]))

    number = tf_feature_pb2.Feature(int64_list=tf_feature_pb2.Int64List(value=[label]))
    features = {"image": text(image), "label": number, "file_name": text(file_name.encode())}
    return tf_example_pb2.Example(features=tf_feature_pb2.Features(feature=features)).SerializeToString()


def _write_records(folder: Path, name: str, split: str, records: list[bytes]):
    """Two shards, so that their order matters."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    shards = [records[: len(records) // 3], records[len(records) // 3 :]]
    for k, shard in enumerate(shards):
        writer = ArrayRecordWriter(str(folder / f"{name}-{split}.array_record-{k:05d}-of-00002"), "group_size:1")
        for record in shard:
            writer.write(record)
        writer.close()
    lengths = [len(shard) for shard in shards]
    return tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=sum(map(len, records)))


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


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
