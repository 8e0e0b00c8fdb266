"""Would catch: an evaluation that sees an image twice, or never, on any number of hosts, workers and batch sizes."""

import numpy as np
import pytest
from data_forms import CROP, Pixels

from epjax.data import BadImage, eval_batches

pytestmark = pytest.mark.fast


def seen(source, **options):
    with eval_batches(source, CROP, **options) as batches:
        got = list(batches)
    for batch in got:
        assert batch.keys() == {"image", "label", "mask"}
        assert (batch["image"].dtype, batch["label"].dtype, batch["mask"].dtype) == (np.uint8, np.int32, np.bool_)
        assert (batch["image"][:, 0, 0, 0] == batch["label"]).all()
        assert not batch["image"][~batch["mask"]].any()
    return len(got), [int(i) for batch in got for i in batch["label"][batch["mask"]]]


@pytest.mark.parametrize("n", [1, 7, 8, 9, 24])
@pytest.mark.parametrize("batch_size", [1, 8, 32])
@pytest.mark.parametrize("threads", [0, 2])
def test_each_image_once_in_order(n, batch_size, threads):
    steps, labels = seen(Pixels(n), batch_size=batch_size, num_threads=threads)
    assert labels == list(range(n))
    assert steps == -(-n // batch_size)


@pytest.mark.parametrize("n", [1, 7, 17])
@pytest.mark.parametrize("hosts", [2, 4])
def test_each_image_once_over_all_hosts(n, hosts):
    parts = [seen(Pixels(n), batch_size=8, process_index=p, process_count=hosts) for p in range(hosts)]
    assert sorted(i for _, labels in parts for i in labels) == list(range(n))
    assert {steps for steps, _ in parts} == {-(-n // 8)}  # Otherwise one host would wait for the others for ever.


def test_worker_processes_see_the_same():
    assert seen(Pixels(21), batch_size=4, num_workers=2) == (6, list(range(21)))


def test_bad_image_stops_or_is_masked():
    with (
        eval_batches(Pixels(5, (3,)), CROP, batch_size=2) as batches,
        pytest.raises(BadImage, match="image 3 cannot be decoded"),
    ):
        list(batches)
    assert seen(Pixels(5, (3,)), batch_size=2, on_bad_image="skip") == (3, [0, 1, 2, 4])


def test_batch_size_must_divide():
    with pytest.raises(ValueError, match="batch_size must be a positive multiple of the 2 processes, got 3"):
        eval_batches(Pixels(4), CROP, batch_size=3, process_count=2)
