"""Would catch: forms of the same images that disagree in order, label or bytes; an index of a tar that differs from
what tarfile reads; a cache that outlives its tar; MNIST and CIFAR files read transposed or with the wrong label."""

import gzip
import io
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from data_forms import few_images, idx, tiny_imagenet

from benchmarks.forms import add
from epjax.data import eval_batches, open_dataset, train_batches
from epjax.data.sources.tar import members

pytestmark = pytest.mark.fast


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """Indices go to a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "epjax"


def listing(source) -> list[tuple[bytes, int]]:
    return [(source[i].image, source[i].label) for i in range(len(source))]


# The same images in every form


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory) -> dict[str, str]:
    """A tiny ImageNet in its four forms, as one would write them after --data."""
    images, root = tiny_imagenet(), tmp_path_factory.mktemp("imagenet")
    return {
        "folder": f"folder:{images.folder(root / 'folder')}",
        "ilsvrc": f"tar:{images.ilsvrc_tars(root / 'tars')}",
        "class tar": f"tar:{images.class_tar(root / 'imagenet.tar')}",
        "tfds": f"tfds:imagenet2012@{images.array_record(root / 'tfds')}",
    }


def test_all_forms_of_imagenet_give_identical_batches(imagenet):
    def batches(spec: str):
        data = open_dataset(spec)
        assert (len(data.train), len(data.val), len(data.classes)) == (1000, 30, 1000)
        assert data.classes == tuple(sorted(data.classes))
        train, evaluate = data.transforms(16)
        with train_batches(data.train, train, batch_size=128, seed=1, start_step=5) as it:
            first = [next(it) for _ in range(3)]
        with eval_batches(data.val, evaluate, batch_size=16) as it:
            return first + list(it)

    folder = batches(imagenet["folder"])
    for form in ("ilsvrc", "class tar", "tfds"):
        for a, b in zip(folder, batches(imagenet[form]), strict=True):
            assert all(np.array_equal(a[k], b[k]) for k in a), form


def test_bare_paths_are_recognised(imagenet):
    for spec in imagenet.values():
        bare = open_dataset(spec.partition(":")[2].rpartition("@")[2])
        assert listing(bare.val) == listing(open_dataset(spec).val)


def test_labels_of_imagenet_are_those_of_the_sorted_wnids(imagenet):
    data = open_dataset(imagenet["ilsvrc"])
    for i in range(0, 1000, 37):
        example = data.train[i]
        assert data.classes[example.label] in example.name


def test_imagenet_dir_is_what_auto_takes(imagenet, monkeypatch):
    folder = imagenet["folder"].partition(":")[2]
    monkeypatch.setenv("IMAGENET_DIR", folder)
    assert (
        open_dataset("auto").origin
        == f"images in {folder}, class folders in train/ and val/, because IMAGENET_DIR names them"
    )
    monkeypatch.delenv("IMAGENET_DIR")
    assert open_dataset().origin.endswith("because IMAGENET_DIR is not set")


def test_test_stands_in_for_val(tmp_path):
    images = few_images()
    folder, tar = images.folder(tmp_path / "f", val="test"), images.class_tar(tmp_path / "t.tar", val="test")
    assert listing(open_dataset(str(folder)).val) == listing(open_dataset(str(tar)).val)


def test_files_that_are_no_images_are_left_alone(tmp_path):
    folder = few_images().folder(tmp_path)
    (folder / "train" / "cat" / "Thumbs.db").write_bytes(b"x")
    (folder / "train" / "README").write_bytes(b"x")
    assert len(open_dataset(str(folder)).train) == 15


def test_litter_is_neither_class_nor_image(tmp_path):
    """What macOS, Windows and unpacking leave behind, in a folder and in a tar of it; links are followed."""
    folder = few_images().folder(tmp_path / "data")
    for name in ("train/cat/._1.JPEG", "train/.hidden/1.JPEG", "val/__MACOSX/1.JPEG", "train/__MACOSX/cat/._1.JPEG"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(folder, arcname="./data")
    (folder / "train" / "cat" / "d.JPEG").mkdir()
    real = next(p for p in sorted((folder / "train" / "cat").iterdir()) if p.is_file() and p.name[0] != ".")
    real.rename(tmp_path / "elsewhere.JPEG")
    real.symlink_to(tmp_path / "elsewhere.JPEG")
    for spec in (str(folder), str(tmp_path / "t.tar")):
        found = open_dataset(spec)
        assert len(found.train) == 15
        assert found.classes == open_dataset(str(few_images().folder(tmp_path / Path(spec).stem / "clean"))).classes


def test_members_of_a_tar_without_bytes_are_left_out_and_named(tmp_path):
    """As a file without bytes in a folder is; from the cache of the tar's index too."""
    folder = few_images().folder(tmp_path / "data")
    (folder / "train/cat/empty.JPEG").touch()
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(folder, arcname=".")
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"left out, for they have no bytes, 1 file: .*t\.tar:cat/empty\.JPEG"):
            found = open_dataset(str(tmp_path / "t.tar"))
        assert len(found.train) == 15


def test_classes_without_an_image(tmp_path):
    """Empty in both splits: left out, with a warning. In one: refused, for the other has it."""
    folder = few_images().folder(tmp_path)
    for split in ("train", "val"):
        (folder / split / "zebra").mkdir()
    with pytest.warns(UserWarning, match="class folders without an image are left out: zebra"):
        found = open_dataset(str(folder))
    assert "zebra" not in found.classes
    image = next((folder / "val" / "cat").iterdir())
    image.rename(folder / "val" / "zebra" / image.name)
    with pytest.raises(ValueError, match="train has no image of class zebra, and val/ has: both must have the same"):
        open_dataset(str(folder))


def test_demo_fits_the_package():
    from epjax.data.demo import PATH

    demo = open_dataset("demo")
    assert PATH.stat().st_size <= 4e6
    assert "Zalando" in (PATH.parent / "NOTICE").read_text()
    assert (len(demo.train), len(demo.val), len(demo.classes)) == (3000, 500, 10)
    for source, each in ((demo.train, 300), (demo.val, 50)):
        assert (np.bincount([source[i].label for i in range(len(source))]) == each).all()
    assert all(f"/{demo.classes[demo.val[i].label]}/" in demo.val[i].name for i in range(0, 500, 7))


def test_demo_is_fashion_mnist(shared_data):
    from epjax.data.transforms import decode

    demo, whole = open_dataset("demo"), open_dataset(f"idx:{shared_data / 'fashion_mnist'}")
    for i in range(0, 500, 25):
        example = demo.val[i]
        original = whole.val[int(example.name[-10:-5])]
        difference = np.asarray(decode(example, 1)).astype(int) - original.image[..., 0]
        assert abs(difference).mean() < 6  # JPEG of quality 75
        assert demo.classes[example.label][:3] == whole.classes[original.label].lower().replace("-", "_")[:3]


# Tars


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_headers_are_read_as_tarfile_reads_them(tmp_path, format):
    path = tmp_path / "x.tar"
    names = ["a.JPEG", f"train/{'d' * 60}/{'e' * 70}.JPEG", "empty.JPEG"]
    names += [] if format == tarfile.USTAR_FORMAT else [f"{'f' * 150}/{'g' * 200}.JPEG", "ünïcode.JPEG"]
    with tarfile.open(path, "w", format=format) as tar:
        for i, name in enumerate(names):
            add(tar, name, b"" if name.startswith("empty") else bytes([i]) * (513 * i + 1))
        tar.addfile(tarfile.TarInfo("folder/"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "a.JPEG"
        tar.addfile(link)
        add(tar, "last.JPEG", b"end")
    with tarfile.open(path) as tar, open(path, "rb") as file:
        expected = [(m.name.encode(), m.offset_data, m.size) for m in tar if m.isfile() and m.name != "folder/"]
        found = [m for m in members(file.fileno(), 0, path.stat().st_size) if m[0] != b"folder/"]
    assert found == expected


def test_sizes_beyond_eight_gigabytes(tmp_path):
    path, size = tmp_path / "sparse.tar", 9 * 2**30
    info = tarfile.TarInfo("train/a/big.JPEG")
    info.size = size
    with open(path, "wb") as file:  # Sparse: takes no room.
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.seek(512 + size)
        file.write(tarfile.TarInfo("train/a/next.JPEG").tobuf(tarfile.GNU_FORMAT))
        file.truncate(512 + size + 512 + 1024)
    with open(path, "rb") as file:
        found = list(members(file.fileno(), 0, path.stat().st_size))
    assert found == [(b"train/a/big.JPEG", 512, size), (b"train/a/next.JPEG", 1024 + size, 0)]


def test_index_is_built_once_and_again_when_the_tar_changes(tmp_path, cache, monkeypatch):
    path = few_images().class_tar(tmp_path / "x.tar")
    first = listing(open_dataset(str(path)).train)
    with monkeypatch.context() as m:
        m.setattr("epjax.data.sources.tar.members", None)  # Reading a header would fail.
        assert listing(open_dataset(str(path)).train) == first
    few_images(seed=1, train=6).class_tar(path)
    assert len(open_dataset(str(path)).train) == 18
    for file in cache.iterdir():
        file.write_bytes(b"damaged")
    assert len(open_dataset(str(path)).train) == 18


def test_unwritable_cache_is_no_obstacle(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(open_dataset(str(few_images().class_tar(tmp_path / "x.tar"))).train) == 15


def test_tar_is_read_by_many_threads_and_after_pickling(tmp_path):
    source = open_dataset(str(few_images(train=30).class_tar(tmp_path / "x.tar"))).train
    expected = listing(source)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: tuple(source[i % 90][:2]), range(900))) == expected * 10
    assert listing(pickle.loads(pickle.dumps(source))) == expected


# MNIST and CIFAR as they were published


@pytest.mark.parametrize("zipped", [False, True])
def test_idx(tmp_path, zipped):
    images = np.arange(6 * 4 * 5).reshape(6, 4, 5)
    for prefix in ("train", "t10k"):
        for kind, array in (("images-idx3", images), ("labels-idx1", np.array([5, 0, 4, 1, 9, 2]))):
            name, content = f"{prefix}-{kind}-ubyte", idx(array)
            (tmp_path / (name + ".gz" * zipped)).write_bytes(gzip.compress(content) if zipped else content)
    data = open_dataset(str(tmp_path))
    assert (data.name, data.stats.mean, data.channels) == ("mnist", (0.1307,), 1)
    assert np.array_equal(data.train[3].image, images[3][..., None])
    assert [data.val[i].label for i in range(6)] == [5, 0, 4, 1, 9, 2]


def test_real_idx_files_have_the_constants_they_are_normalised_with(shared_data):
    for name in ("mnist", "fashion_mnist"):
        data = open_dataset(str(shared_data / name))
        assert (data.name, len(data.train), len(data.val)) == (name, 60_000, 10_000)
        pixels = data.train.images / 255
        np.testing.assert_allclose((pixels.mean(), pixels.std()), (data.stats.mean[0], data.stats.std[0]), atol=5e-5)


def cifar_images(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)


def planes(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).reshape(len(images), 3072)


@pytest.mark.parametrize("version", ["binary", "python"])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar(tmp_path, name, version):
    ten = name == "cifar10"
    folder = tmp_path / ("cifar-10-batches-bin" if ten else "cifar-100")
    folder.mkdir()
    images, labels = cifar_images(10), np.arange(10) + (0 if ten else 90)
    if ten:
        files = {f"data_batch_{i + 1}": slice(2 * i, 2 * i + 2) for i in range(5)} | {"test_batch": slice(3, 5)}
    else:
        files = {"train": slice(0, 10), "test": slice(3, 5)}
    for file, part in files.items():
        if version == "binary":
            coarse = [] if ten else [np.full((10, 1), 7)[part]]
            rows = np.concatenate([*coarse, labels[part, None], planes(images[part])], axis=1)
            (folder / f"{file}.bin").write_bytes(rows.astype(np.uint8).tobytes())
        else:
            key = b"labels" if ten else b"fine_labels"
            batch = {b"data": planes(images[part]), key: labels[part].tolist()}
            (folder / file).write_bytes(pickle.dumps(batch, protocol=2))
    data = open_dataset(str(tmp_path))
    assert (data.name, len(data.train), len(data.val), len(data.classes)) == (name, 10, 2, 10 if ten else 100)
    assert all(np.array_equal(data.train[i].image, images[i]) for i in range(10))
    assert [data.train[i].label for i in range(10)] == labels.tolist()
    assert [data.val[i].label for i in range(2)] == labels[3:5].tolist()


def test_cifar_pickles_run_no_code(tmp_path):
    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    for file in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        (tmp_path / file).write_bytes(pickle.dumps({b"data": Attack(), b"labels": []}))
    with pytest.raises(ValueError, match="data_batch_1 is not a CIFAR file for Python: it refers to"):
        open_dataset(f"cifar:{tmp_path}")
    assert not (tmp_path / "ran").exists()


def test_real_class_folder_tars(shared_data):
    cifar, tiny = (open_dataset(str(shared_data / f"{name}.tar")) for name in ("cifar10", "tiny_imagenet_20"))
    assert (cifar.name, len(cifar.train), len(cifar.val), cifar.augmentation) == ("cifar10", 50_000, 10_000, "pad")
    assert (len(tiny.train), len(tiny.val), len(tiny.classes)) == (10_000, 1_000, 20)
    with tarfile.open(shared_data / "tiny_imagenet_20.tar") as tar:
        for i in range(0, 1000, 250):
            example = tiny.val[i]
            content = tar.extractfile(example.name.partition(":")[2])
            assert isinstance(content, io.BufferedReader)
            assert content.read() == example.image
            assert tiny.classes[example.label] == example.name.split("/")[-2]
