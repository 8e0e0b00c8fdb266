"""Would catch: batches that depend on threads, workers, hosts or the step of a restart; an epoch that repeats an image;
the same shuffle in every epoch; an order that changes with a release of NumPy; a bad image that shifts the others."""

import pickle

import numpy as np
import pytest
from data_forms import CROP, Pixels, few_images

from epjax.data import BadImage, Example, PadCropFlip, open_dataset, steps_per_epoch, train_batches
from epjax.data.pipeline import order

pytestmark = pytest.mark.fast


def take(count: int, source, **options):
    options = {"transform": CROP, "batch_size": 4, "seed": 7, "num_threads": 0} | options
    with train_batches(source, **options) as batches:
        return [next(batches) for _ in range(count)]


def same(a, b) -> bool:
    return all(x.keys() == y.keys() and all(np.array_equal(x[k], y[k]) for k in x) for x, y in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def reference():
    demo = open_dataset("demo")
    return demo, take(6, demo.train, transform=PadCropFlip(32), start_step=43)


def test_order_is_pinned():
    # NumPy promises never to change raw bits, so that the order of a seed is the same with every release.
    bits = np.random.Philox(np.random.SeedSequence((0, 0, 0))).random_raw(8)
    assert order(0, 0, 8).tolist() == sorted(range(8), key=lambda i: bits[i]) == [0, 3, 7, 5, 1, 2, 6, 4]


def test_epochs_are_permutations_and_differ():
    labels = np.stack([b["label"] for b in take(3 * 5, Pixels(20))]).reshape(3, 20)
    assert all(sorted(epoch) == list(range(20)) for epoch in labels.tolist())
    assert len({tuple(epoch) for epoch in labels.tolist()}) == 3


def test_every_image_is_equally_likely_anywhere():
    places = np.stack([order(3, epoch, 5) for epoch in range(2000)])
    counts = np.stack([np.bincount(places[:, i], minlength=5) for i in range(5)])
    assert np.abs(counts - 400).max() < 5 * np.sqrt(400 * 0.8)


def test_what_is_dropped_changes():
    dropped = [
        set(range(10)) - {i for b in take(2, Pixels(10), start_step=2 * e) for i in b["label"]} for e in range(9)
    ]
    assert all(len(d) == 2 for d in dropped)
    assert len({tuple(sorted(d)) for d in dropped}) > 3


@pytest.mark.parametrize("options", [{"num_threads": 1}, {"num_threads": 3}, {"num_threads": 8}])
def test_threads_change_nothing(reference, options):
    demo, batches = reference
    assert same(batches, take(6, demo.train, transform=PadCropFlip(32), start_step=43, **options))


def test_worker_processes_change_nothing(reference):
    demo, batches = reference
    assert same(batches, take(6, demo.train, transform=PadCropFlip(32), start_step=43, num_workers=2, num_threads=1))


def test_restart_changes_nothing(reference):
    demo, batches = reference
    for step in (44, 46):
        again = take(49 - step, demo.train, transform=PadCropFlip(32), start_step=step, num_threads=2)
        assert same(batches[step - 43 :], again)


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_global_batch(reference, hosts):
    demo, batches = reference
    options = {"transform": PadCropFlip(32), "start_step": 43, "process_count": hosts}
    parts = [take(6, demo.train, process_index=p, **options) for p in range(hosts)]
    joined = [{k: np.concatenate([part[i][k] for part in parts]) for k in batches[0]} for i in range(6)]
    assert same(batches, joined)


def test_seed_and_step_change_the_augmentation():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    source = [Example(image, 0, "one")] * 4
    seen = {
        take(1, source, transform=PadCropFlip(4), seed=s, start_step=t)[0]["image"].tobytes()
        for s in (0, 1)
        for t in (0, 1)
    }
    assert len(seen) == 4


def test_batches_are_of_the_promised_types():
    (batch,) = take(1, Pixels(9))
    assert batch.keys() == {"image", "label"}
    assert (batch["image"].dtype, batch["image"].shape) == (np.uint8, (4, 4, 4, 3))
    assert (batch["label"].dtype, batch["label"].shape) == (np.int32, (4,))
    assert (batch["image"][:, 0, 0, 0] == batch["label"]).all()
    assert steps_per_epoch(Pixels(9), 4) == 2


def test_bad_image_stops_at_its_step_and_is_named():
    bad = int(order(7, 0, 12)[9])
    with train_batches(Pixels(12, (bad,)), CROP, batch_size=4, seed=7) as batches:
        next(batches)
        next(batches)
        with pytest.raises(BadImage, match=rf"image {bad} cannot be decoded.*--on-bad-image skip"):
            next(batches)


@pytest.mark.parametrize("threads", [0, 3])
def test_bad_images_are_replaced_and_nothing_else_moves(threads, caplog):
    options = {"on_bad_image": "skip", "num_threads": threads}
    whole, gaps = take(6, Pixels(12)), take(6, Pixels(12, (3, 4)), **options)
    for a, b in zip(whole, gaps, strict=True):
        expected = np.where(np.isin(a["label"], (3, 4)), 5, a["label"])
        assert (b["label"] == expected).all()
        assert (b["image"] == expected[:, None, None, None]).all()
    assert same(gaps[2:], take(4, Pixels(12, (3, 4)), start_step=2, **options))


def test_skipped_images_are_counted_and_reported_once(caplog):
    with train_batches(Pixels(12, (3, 4)), CROP, batch_size=4, seed=7, on_bad_image="skip") as batches:
        for _ in range(6):
            next(batches)
    # Each epoch meets 3 and 4 in their own places, and 4 again where it would have stood in for 3.
    assert {m.split(" cannot")[0]: n for m, n in batches.skipped.items()} == {"image 3": 2, "image 4": 4}
    assert len([r for r in caplog.records if "left out" in r.message]) == 2


def test_nothing_but_bad_images_stops():
    with (
        train_batches(Pixels(4, (0, 1, 2, 3)), CROP, batch_size=4, seed=0, on_bad_image="skip") as batches,
        pytest.raises(BadImage, match="bad"),
    ):
        next(batches)


def test_corrupt_file_names_itself_from_a_worker_process(tmp_path):
    images = few_images()
    images.splits["train"]["dog"]["dog_1.JPEG"] = b"<html>not found</html>"
    source = open_dataset(f"folder:{images.folder(tmp_path)}").train
    with (
        train_batches(source, PadCropFlip(8), batch_size=15, seed=0, num_workers=1) as batches,
        pytest.raises(BadImage, match=r"train/dog/dog_1.JPEG cannot be decoded"),
    ):
        next(batches)


def test_sources_survive_pickling():
    source = open_dataset("demo").train
    first = source[5]
    assert pickle.loads(pickle.dumps(source))[5] == first


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch_size": 0}, "batch_size must lie between 1 and the 20"),
        ({"batch_size": 21}, "batch_size must lie between 1 and the 20 training images, got 21"),
        ({"batch_size": 3, "process_count": 2}, "multiple of the 2 processes, got 3"),
        ({"process_index": 1}, "process_index must lie in 0..0, got 1"),
        ({"seed": -1}, "seed and start_step must be at least 0, got -1 and 0"),
        ({"start_step": -2}, "seed and start_step must be at least 0"),
        ({"num_threads": -1}, "num_workers and num_threads must be at least 0, got 0 and -1"),
        ({"on_bad_image": "ignore"}, "on_bad_image must be stop or skip, got 'ignore'"),
    ],
)
def test_wrong_arguments(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        take(1, Pixels(20), **options)
