"""Would catch: data that are missing or wrong met with a traceback, or with a sentence that does not help."""

import gzip
import tarfile
from pathlib import Path

import numpy as np
import pytest
from data_forms import few_images, idx

from benchmarks.forms import add
from epjax.data import open_dataset

pytestmark = pytest.mark.fast


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> None:
    """Indices of tars go to a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def sentence(spec: str | Path) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        open_dataset(str(spec))
    message = str(caught.value)
    assert "\n" not in message
    return message


# Folders


def test_missing_path(tmp_path):
    assert sentence(tmp_path / "no").startswith(f"the data {tmp_path / 'no'} do not exist")
    assert sentence(f"folder:{tmp_path / 'no'}") == f"the data folder {tmp_path / 'no'} does not exist"
    assert "tar, idx, cifar or tfds:" in sentence("tfd:imagenet2012@x")


def test_missing_imagenet_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGENET_DIR", str(tmp_path / "no"))
    assert str(tmp_path / "no") in sentence("auto")


def test_empty_folder(tmp_path):
    assert sentence(tmp_path) == f"{tmp_path} must hold train/CLASS/*.JPEG and val/CLASS/*.JPEG, but it is empty"


def test_wrong_level(tmp_path):
    folder = few_images().folder(tmp_path / "data" / "imagenet")
    assert sentence(folder.parent).endswith(f"its folder imagenet does: give {folder}")
    assert sentence(folder / "val").endswith(f"it is one split: give {folder}")
    assert sentence(folder / "train" / "cat").endswith("but it holds no folder")


def test_missing_val(tmp_path):
    folder = few_images().folder(tmp_path)
    (folder / "val").rename(tmp_path / "elsewhere")
    assert "there is no val/ (nor test/)" in sentence(folder)


def test_no_classes_and_no_images(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    assert sentence(tmp_path).startswith(f"{tmp_path}/train holds no class folder")
    (tmp_path / "train" / "cat").mkdir()
    assert sentence(tmp_path).startswith("the data hold no training image")


@pytest.mark.parametrize("form", ["folder", "class_tar"])
def test_class_in_val_that_is_not_in_train(tmp_path, form):
    images = few_images()
    del images.splits["train"]["dog"]
    path = getattr(images, form)(tmp_path / "data")
    assert sentence(path).endswith("holds class 'dog', which the training images do not have")


def test_folder_that_is_a_file(tmp_path):
    tar = few_images().class_tar(tmp_path / "x.tar")
    assert sentence(f"folder:{tar}") == f"the data folder {tar} is a file; a tar is given as tar:{tar}"


# Tars


def test_compressed_tar(tmp_path):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(few_images().class_tar(tmp_path / "x.tar").read_bytes()))
    assert sentence(path) == f"{path} is compressed, and images are read in place: run gunzip on it first"


def test_file_that_is_no_tar(tmp_path):
    (tmp_path / "x").write_bytes(b"hello" * 1000)
    assert sentence(tmp_path / "x") == f"{tmp_path}/x cannot be read: what lies at byte 0 is not the header of a tar"


def test_tar_cut_short(tmp_path):
    path = few_images().class_tar(tmp_path / "x.tar")
    path.write_bytes(path.read_bytes()[:3000])
    assert "x.tar cannot be read: it is cut short" in sentence(path)


def test_tar_of_something_else(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        add(tar, "cat/1.JPEG", b"1")
    assert sentence(tmp_path / "x.tar").endswith("holds no train image: its members must be train/CLASS/*")


def test_one_ilsvrc_tar_is_missing(tmp_path):
    images = few_images()
    images.splits["val"] = {}
    folder = images.ilsvrc_tars(tmp_path)
    (folder / "ILSVRC2012_img_val.tar").unlink()
    assert sentence(folder).startswith(f"{folder}/ILSVRC2012_img_val.tar is missing")
    assert sentence(f"tar:{tmp_path / 'no.tar'}") == f"the tar {tmp_path}/no.tar does not exist"


def test_validation_tar_with_other_names(tmp_path):
    assert "cat_0.JPEG is not named like ILSVRC2012_val_00000001.JPEG" in sentence(few_images().ilsvrc_tars(tmp_path))


# tensorflow-datasets


def test_tfds_of_another_data_set(tmp_path):
    root = few_images().array_record(tmp_path, "toy")
    assert sentence(f"tfds:imagenet2012@{root / 'toy' / '5.1.0'}") == f"{root}/toy/5.1.0 holds toy, not imagenet2012"
    assert f"{root}/imagenet2012 holds no prepared data set" in sentence(f"tfds:imagenet2012@{root}")
    assert "tfds:NAME@DIR" in sentence("tfds:imagenet2012")
    few_images().array_record(tmp_path, "other")
    assert "holds several data sets, other and toy: give tfds:NAME@" in sentence(root)


def test_tfds_that_is_not_array_record(tmp_path):
    info = few_images().array_record(tmp_path, "toy") / "toy" / "5.1.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    assert "holds tfrecord files, which are not random access" in sentence(f"tfds:toy@{tmp_path}")


def test_tfds_label_out_of_range(tmp_path):
    root = few_images().array_record(tmp_path, "toy")
    names = root / "toy" / "5.1.0" / "label.labels.txt"
    names.write_text("\n".join(names.read_text().split()[:2]))
    source = open_dataset(f"tfds:toy@{root}").train
    with pytest.raises(ValueError, match=r"train\[\d+\] \(eel_\d.JPEG\) has label 2; labels must lie in 0..1"):
        [source[i] for i in range(len(source))]


# MNIST and CIFAR


@pytest.fixture
def mnist(tmp_path) -> Path:
    for prefix in ("train", "t10k"):
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(idx(np.zeros((3, 4, 4))))
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(np.array([0, 1, 2])))
    return tmp_path


def test_idx_file_is_missing(mnist):
    (mnist / "t10k-labels-idx1-ubyte").unlink()
    assert sentence(mnist) == f"{mnist}/t10k-labels-idx1-ubyte is missing, and so is t10k-labels-idx1-ubyte.gz"


def test_idx_label_out_of_range(mnist):
    (mnist / "train-labels-idx1-ubyte").write_bytes(idx(np.array([0, 12, 2])))
    assert sentence(mnist) == f"{mnist}/train holds label 12; labels must lie in 0..9"


def test_idx_numbers_differ_or_are_cut_short(mnist):
    images = mnist / "train-images-idx3-ubyte"
    images.write_bytes(idx(np.zeros((2, 4, 4))))
    assert sentence(mnist) == f"{mnist}/train holds 2 images but 3 labels"
    images.write_bytes(images.read_bytes()[:-1])
    assert sentence(mnist) == f"{images} must hold (2, 4, 4) bytes after its header, but holds 31"
    images.write_bytes(b"junk")
    assert sentence(mnist) == f"{images} is not an IDX file of unsigned bytes"


def test_cifar_files_are_missing_or_cut_short(tmp_path):
    assert "must hold data_batch_1 to 5 and test_batch (CIFAR-10) or train and test" in sentence(f"cifar:{tmp_path}")
    for file in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        (tmp_path / file).write_bytes(b"\0" * 3073)
    (tmp_path / "data_batch_2.bin").write_bytes(b"\0" * 3000)
    assert (
        sentence(tmp_path) == f"{tmp_path}/data_batch_2.bin holds 3000 bytes, no multiple of the 3073 bytes of a record"
    )
    (tmp_path / "data_batch_2.bin").write_bytes(b"\x0b" + b"\0" * 3072)
    assert "holds label 11; labels must lie in 0..9" in sentence(tmp_path)
