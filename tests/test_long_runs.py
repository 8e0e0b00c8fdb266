"""What a run uses stays what it was: open files, threads, memory, compiled programs, however long it goes on.

Would catch: a thread or a file that each checkpoint, evaluation, diagnosis or start of the data leaves behind, arrays
of old steps that something still holds, a program that is compiled again and again. At the usual limit of 1,024 open
files a run ends in its 330th checkpoint if each leaves three behind.
"""

import gc
import os
import threading
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data_forms import CROP, Pixels

import epjax
from epjax.data import eval_batches, prefetch, train_batches
from epjax.diagnosis.examine import diagnoser
from epjax.training.checkpoint import Checkpoints
from epjax.training.evaluation import eval_step, evaluate

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc tells what a process uses")


class Use(NamedTuple):
    """What this process uses now."""

    files: int
    threads: int
    mb: float


def in_use() -> Use:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Use(len(os.listdir("/proc/self/fd")), threading.active_count(), pages * os.sysconf("SC_PAGE_SIZE") / 1e6)


def assert_constant(do, times, mb_each=0.05, warm_up=10):
    """`do(i)`, called `times` times, leaves no file and no thread, and at most `mb_each` MB a time beside 8 MB in all.

    tensorstore keeps 0.02 MB of what it counts in a save or a read.
    """
    for i in range(warm_up):
        do(i)
    before = in_use()
    for i in range(times):
        do(warm_up + i)
    deadline = time.monotonic() + 10.0
    while (after := in_use()).threads > before.threads and time.monotonic() < deadline:
        time.sleep(0.05)  # one that ends is no one that is left
    assert after.files <= before.files
    assert after.threads <= before.threads
    assert after.mb - before.mb < 8.0 + mb_each * times


def few_and_many(few, many):
    return pytest.mark.parametrize("times", [few, pytest.param(many, marks=pytest.mark.slow)])


@few_and_many(30, 500)
def test_saves(tmp_path, times):
    checkpoints = Checkpoints(tmp_path / "checkpoints", {})

    def save(i):
        checkpoints.save(i, {"w": jnp.full(250_000, i, jnp.float32)}, metric=float(-i))
        checkpoints.wait()

    assert_constant(save, times)
    assert len(checkpoints.steps) == 3
    checkpoints.close()


@few_and_many(10, 100)
def test_going_on(tmp_path, times):
    """Opening, reading, closing."""
    state = {"w": jnp.arange(10_000.0)}  # few: tensorstore has a cache, of up to 100 MB, of what it has read
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = {"w": jax.ShapeDtypeStruct(state["w"].shape, state["w"].dtype, sharding=here)}

    def go_on(i):
        checkpoints = Checkpoints(tmp_path / "checkpoints", {})
        restored = checkpoints.restore(like)
        assert restored is None if i == 0 else restored.step == i - 1
        checkpoints.save(i, state)
        checkpoints.close()

    assert_constant(go_on, times, mb_each=0.1)


@few_and_many(20, 200)
def test_evaluations(times):
    net = epjax.models.mlp([48, 20, 64])
    params = net.init(jax.random.key(0), (4, 4, 3))
    step = eval_step(net.forward, epjax.cost.cross_entropy, lambda image: image.astype(jnp.float32))

    def once(i):
        batches = eval_batches(Pixels(60), CROP, batch_size=16)
        with prefetch(batches, jax.device_put) as feed:
            assert evaluate(step, params, feed)["val_images"] == 60

    assert_constant(once, times)
    assert step._cache_size() == 1


@few_and_many(20, 200)
@pytest.mark.parametrize("threads", [0, 2])
def test_starts_of_the_data(times, threads):
    def start(i):
        batches = train_batches(Pixels(60), CROP, batch_size=16, seed=0, start_step=i, num_threads=threads)
        with prefetch(batches, jax.device_put) as feed:
            next(feed)

    assert_constant(start, times)


def shared_arrays():
    return {name for name in os.listdir("/dev/shm") if not name.startswith("sem.")}


@few_and_many(2, 10)
def test_starts_of_the_data_in_processes_of_their_own(times):
    def start(i):
        batches = train_batches(Pixels(60), CROP, batch_size=16, seed=0, start_step=i, num_workers=2)
        with prefetch(batches, jax.device_put) as feed:
            next(feed)

    shared = shared_arrays()
    assert_constant(start, times, warm_up=1)
    assert shared_arrays() <= shared


@few_and_many(20, 200)
def test_diagnoses(times):
    net = epjax.models.mlp([6, 8, 4])
    params = net.init(jax.random.key(0), (6,))
    diagnose = diagnoser(net, beta=0.01)
    random = np.random.default_rng(0)
    x, y = jnp.asarray(random.normal(size=(4, 6)), jnp.float32), jnp.arange(4)
    assert_constant(lambda i: diagnose(params, x, y, jax.random.key(i)), times)
