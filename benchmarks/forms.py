"""The same images in each form that epjax.data reads; for the benchmark of the pipeline and for the tests."""

import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

KAGGLE = "ILSVRC/Data/CLS-LOC"


@dataclass
class Images:
    """split -> class -> file name -> bytes, with `train` and `val`."""

    splits: dict[str, dict[str, dict[str, bytes]]]

    def folder(self, root: Path, val: str = "val") -> Path:
        """Class folders, train/CLASS/* and val/CLASS/*."""
        for split, classes in self.splits.items():
            for name, files in classes.items():
                folder = root / split.replace("val", val) / name
                folder.mkdir(parents=True)
                for file, content in files.items():
                    (folder / file).write_bytes(content)
        return root

    def flat(self, root: Path, inner: str = "") -> Path:
        """Class folders in train/, all validation images in one folder; the list of their classes is yet to come."""
        Images({"train": self.splits["train"]}).folder(root / inner)
        (root / inner / "val").mkdir()
        for files in self.splits["val"].values():
            for file, content in files.items():
                (root / inner / "val" / file).write_bytes(content)
        return root

    def kaggle(self, root: Path) -> Path:
        """As Kaggle's archive unpacks: test images have no labels, and the lists stand beside ILSVRC."""
        self.flat(root, KAGGLE)
        (root / KAGGLE / "test").mkdir()
        (root / KAGGLE / "test" / "ILSVRC2012_test_00000001.JPEG").write_bytes(b"a test image")
        lines = [f"{file.rpartition('.')[0]},{c} 1 2 30 40 {c} 5 6 7 8 " for c, file in self.validation()]
        (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *reversed(lines)]))
        return root

    def devkit(self, folder: Path, words: Mapping[str, str], archive: bool = False) -> Path:
        """The development kit's two files, or the archive; its numbers are in another order than the sorted classes."""
        from scipy.io import savemat

        numbered = {c: number for number, c in enumerate(sorted(words, reverse=True), start=1)}
        rows = [(number, c, words[c], "a gloss") for c, number in numbered.items()]
        kinds = [(name, object) for name in ("ILSVRC2012_ID", "WNID", "words", "gloss")]
        meta = io.BytesIO()
        savemat(meta, {"synsets": np.array(rows, kinds)[:, None]})
        true = {int(file.rpartition(".")[0].rpartition("_")[2]): numbered[c] for c, file in self.validation()}
        truth = "\n".join(str(true.get(i + 1, 1)) for i in range(max(true)))
        files = {"meta.mat": meta.getvalue(), "ILSVRC2012_validation_ground_truth.txt": truth.encode()}
        if archive:
            with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
                for name, content in files.items():
                    add(tar, f"ILSVRC2012_devkit_t12/data/{name}", content)
        else:
            for name, content in files.items():
                (folder / name).write_bytes(content)
        return folder

    def tiny(self, root: Path) -> Path:
        """As Tiny ImageNet unpacks, but for its words."""
        for c, files in self.splits["train"].items():
            (root / "train" / c / "images").mkdir(parents=True)
            for file, content in files.items():
                (root / "train" / c / "images" / file).write_bytes(content)
            (root / "train" / c / f"{c}_boxes.txt").write_text("".join(f"{file}\t0\t62\t0\t63\n" for file in files))
        for folder in ("val", "test"):
            (root / folder / "images").mkdir(parents=True)
        (root / "test/images/test_0.JPEG").write_bytes(b"a test image")
        for c, file in self.validation():
            (root / "val/images" / file).write_bytes(self.splits["val"][c][file])
        (root / "val/val_annotations.txt").write_text(
            "".join(f"{f}\t{c}\t0\t32\t44\t62\n" for c, f in self.validation())
        )
        (root / "wnids.txt").write_text("\n".join(reversed(self.splits["train"])))
        return root

    def validation(self) -> list[tuple[str, str]]:
        """The class and the file name of each validation image, by the file name."""
        return sorted(((c, f) for c, files in self.splits["val"].items() for f in files), key=lambda pair: pair[1])

    def class_tar(self, path: Path, val: str = "val", format: int = tarfile.GNU_FORMAT) -> Path:
        """One tar of class folders."""
        with tarfile.open(path, "w", format=format) as tar:
            for split, classes in self.splits.items():
                for name, files in classes.items():
                    for file, content in files.items():
                        add(tar, f"./{split.replace('val', val)}/{name}/{file}", content)
        return path

    def ilsvrc_tars(self, root: Path) -> Path:
        """The two ILSVRC2012 tars; the order in them is not sorted."""
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

    def text(value: bytes) -> Any:
        return tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=[value]))

    number = tf_feature_pb2.Feature(int64_list=tf_feature_pb2.Int64List(value=[label]))
    features = {"image": text(image), "label": number, "file_name": text(file_name.encode())}
    return tf_example_pb2.Example(features=tf_feature_pb2.Features(feature=features)).SerializeToString()


def _write_records(folder: Path, name: str, split: str, records: list[bytes]) -> Any:
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
    """A member with this content."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
