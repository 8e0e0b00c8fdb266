"""Batches through grain: what stands at (seed, step, row) is a pure function, whoever computes it.

Row r of the global batch at `step` is example order(seed, epoch)[(step mod S) * B + r], augmented with a generator
seeded by (seed, step, r); S = steps_per_epoch, epoch = step // S. Neither the number of threads, worker processes and
hosts nor the step at which the iterator was started enters.
"""

import functools
import logging
import multiprocessing
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self, get_args

import grain
import numpy as np

from epjax.data.source import Example, Source
from epjax.data.transforms import BadImage, Transform

logger = logging.getLogger(__name__)

Batch = dict[str, np.ndarray]
OnBadImage = Literal["stop", "skip"]

_ORDER, _AUGMENTATION = 0, 1
_FOREVER = 2**48
_PATIENCE = 1000

HANGS_AFTER = 600.0
"""Seconds without a batch after which the worker processes are taken to hang."""

_UNGUARDED_EXIT_CODE = 64


@functools.lru_cache(maxsize=2)
def order(seed: int, epoch: int, length: int) -> np.ndarray:
    """The permutation of 0..length-1 that an epoch follows: the ranks of raw bits, which no NumPy release changes."""
    bits = np.random.Philox(np.random.SeedSequence((seed, _ORDER, epoch))).random_raw(length)
    return np.argsort(bits, kind="stable")


def steps_per_epoch(source: Source, batch_size: int) -> int:
    """The whole batches in an epoch; the rest, another one in each epoch, is dropped."""
    if not 1 <= batch_size <= len(source):
        raise ValueError(f"batch_size must lie between 1 and the {len(source)} training images, got {batch_size}")
    return len(source) // batch_size


class _Row(NamedTuple):
    """One row of a batch: no pixels where the image is bad or past the end."""

    pixels: np.ndarray | None
    label: int | np.ndarray
    bad: tuple[str, ...]


def _load(
    source: Source, index: int, transform: Transform, rng: np.random.Generator
) -> tuple[np.ndarray, int | np.ndarray]:
    try:
        example: Example = source[index]
    except OSError as error:
        raise BadImage(f"image {index} cannot be read: {error}") from None
    made = transform(example, rng)
    return made if isinstance(made, tuple) else (made, example.label)


def _stack(rows: list[_Row], transform: Transform) -> dict[str, Any]:
    image = np.zeros((len(rows), *transform.shape), getattr(transform, "dtype", np.uint8))
    label = np.zeros((len(rows), *getattr(transform, "label_shape", ())), np.int32)
    for place, row in enumerate(rows):
        if row.pixels is not None:
            image[place], label[place] = row.pixels, row.label
    return {
        "image": image,
        "label": label,
        "mask": np.array([row.pixels is not None for row in rows]),
        "bad": tuple(message for row in rows for message in row.bad),
    }


@dataclass(frozen=True)
class _TrainBatches:
    """The batches of one host from `start_step` on, by number; grain reads them like a list."""

    source: Source
    transform: Transform
    batch_size: int
    seed: int
    start_step: int
    rows: range
    on_bad_image: OnBadImage

    def __len__(self) -> int:
        return _FOREVER

    def __getitem__(self, i: int) -> dict[str, Any]:
        step = self.start_step + i
        epoch, batch = divmod(step, len(self.source) // self.batch_size)
        places = order(self.seed, epoch, len(self.source))[batch * self.batch_size :]
        return _stack([self._row(step, row, int(places[row])) for row in self.rows], self.transform)

    def _row(self, step: int, row: int, index: int) -> _Row:
        bad: list[str] = []
        while True:
            rng = np.random.default_rng((self.seed, _AUGMENTATION, step, row))
            try:
                return _Row(*_load(self.source, index, self.transform, rng), tuple(bad))
            except BadImage as error:
                bad.append(str(error))
                if self.on_bad_image == "stop" or len(bad) == min(_PATIENCE, len(self.source)):
                    return _Row(None, 0, tuple(bad))
                index = (index + 1) % len(self.source)  # The next good image stands in.


@dataclass(frozen=True)
class _EvalBatches:
    """The batches of one host, each example in one batch of one host."""

    source: Source
    transform: Transform
    batch_size: int
    rows: range

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return _stack([self._row(i * self.batch_size + row) for row in self.rows], self.transform)

    def _row(self, index: int) -> _Row:
        if index >= len(self.source):
            return _Row(None, 0, ())
        try:
            return _Row(*_load(self.source, index, self.transform, np.random.default_rng(0)), ())
        except BadImage as error:
            return _Row(None, 0, (str(error),))


class LostWorker(OSError):
    """A process that decodes images ended or hangs."""


class _Workers:
    """Watches the processes that decode for one iterator: those that this process has started since it was made."""

    def __init__(self, count: int) -> None:
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            sys.exit(_UNGUARDED_EXIT_CODE)  # a worker that runs the script anew, up to here; the parent explains
        self._count, self._others = count, set(multiprocessing.active_children())
        self._waits_since: float | None = None
        self._hang, self._over = False, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True, name="workers")
        self._thread.start()

    def waits(self, waits: bool) -> None:
        """Whether somebody waits for them now."""
        self._waits_since = time.monotonic() if waits else None

    def explain(self, error: RuntimeError) -> Exception | None:
        """What grain said of a worker that ended, in our words; None where it said something else."""
        if "terminated unexpectedly" not in str(error):
            return None
        return self._lost(int(str(error).split("exit code ")[1].split(".")[0]))

    def close(self) -> None:
        """End the watch."""
        self._over.set()
        self._thread.join()

    def _lost(self, code: int) -> Exception:
        if self._hang:
            return LostWorker(
                f"the processes that decode images ({self._count}) gave no batch for {HANGS_AFTER:g} seconds and were"
                " ended: look whether the disk with the images answers"
            )
        if code == _UNGUARDED_EXIT_CODE:
            script = getattr(sys.modules["__main__"], "__file__", "the program")
            return ValueError(
                f"num_workers is {self._count}, and each of these processes runs {script} anew: put what it does"
                ' under `if __name__ == "__main__":`, or give num_workers=0'
            )
        how = "was killed, most likely because memory ran out" if code == -9 else f"ended with exit code {code}"
        return LostWorker(f"a process that decodes images {how}: give fewer than {self._count} --num-workers")

    def _look(self) -> None:
        while not self._over.wait(min(1.0, HANGS_AFTER / 10)):
            since = self._waits_since
            if since is not None and time.monotonic() - since > HANGS_AFTER:
                self._hang = True
                for process in set(multiprocessing.active_children()) - self._others:
                    process.kill()


class Batches(Iterator[Batch]):
    """An iterator over batches. `skipped` counts, by their messages, the bad images met so far; `close` ends workers.

    A bad image raises BadImage (on_bad_image "stop") when its batch is asked for, or is reported once and counted.
    LostWorker is raised where a worker process ended, or none gave a batch for `HANGS_AFTER` seconds.
    """

    def __init__(self, batches: Any, workers: int, threads: int, on_bad_image: OnBadImage, keep_mask: bool) -> None:
        if on_bad_image not in get_args(OnBadImage):
            raise ValueError(f"on_bad_image must be stop or skip, got {on_bad_image!r}")
        if min(workers, threads) < 0:
            raise ValueError(f"num_workers and num_threads must be at least 0, got {workers} and {threads}")
        dataset = grain.MapDataset.source(batches).to_iter_dataset(grain.ReadOptions(threads, threads))
        self._workers = _Workers(workers) if workers else None
        if workers:
            _mark_flags_as_parsed()
            dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(workers, per_worker_buffer_size=2))
        self.skipped: Counter[str] = Counter()
        self._stop, self._keep_mask = on_bad_image == "stop", keep_mask
        self._batches: Any = iter(dataset)

    def __next__(self) -> Batch:
        """The next batch; StopIteration at the end of an evaluation."""
        batch = self._next()
        if self._workers:  # Copied, so that shared memory is freed here and not at the whim of the collector.
            batch = {k: np.array(v) if isinstance(v, np.ndarray) else v for k, v in batch.items()}
        for message in batch.pop("bad"):
            if self._stop:
                raise BadImage(f"{message} (--on-bad-image skip leaves such images out)")
            if message not in self.skipped:
                logger.warning("left out: %s", message)
            self.skipped[message] += 1
        if not self._keep_mask and not batch.pop("mask").all():
            raise BadImage(f"{_PATIENCE} images in a row, or all of them, are bad: see the messages above")
        return batch

    def _next(self) -> dict[str, Any]:
        if self._batches is None:
            raise ValueError("these batches are closed")
        if self._workers is None:
            return next(self._batches)
        self._workers.waits(True)
        try:
            return next(self._batches)
        except RuntimeError as error:
            lost = self._workers.explain(error)
            if lost is None:
                raise
        finally:
            self._workers.waits(False)
        self.close()  # now, and without grain's error: what keeps its iterators to the end of the program, complains
        raise lost

    def close(self) -> None:
        """End threads and worker processes."""
        batches, self._batches = self._batches, None
        if batches is not None:
            batches.close()
        if self._workers:
            self._workers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _mark_flags_as_parsed() -> None:
    """Let grain start worker processes in a program that does not use absl's flags."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _share(batch_size: int, process_index: int, process_count: int) -> range:
    """The rows of the global batch that a process holds."""
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(f"batch_size must be a positive multiple of the {process_count} processes, got {batch_size}")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index must lie in 0..{process_count - 1}, got {process_index}")
    rows = batch_size // process_count
    return range(process_index * rows, (process_index + 1) * rows)


def train_batches(
    source: Source,
    transform: Transform,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    num_workers: int = 0,
    num_threads: int = 2,
    process_index: int = 0,
    process_count: int = 1,
    on_bad_image: OnBadImage = "stop",
) -> Batches:
    """Batches {"image": uint8 [b, H, W, C], "label": int32 [b]} without end, b = batch_size // process_count.

    Starts at `start_step` at no cost. Each of `num_workers` processes (0: this one) makes whole batches with
    `num_threads` threads (0: on demand). Skipping puts the next good image in the place of a bad one, so that the
    batches remain a function of seed and step. ValueError for a batch larger than the source or not divisible.
    """
    steps_per_epoch(source, batch_size)
    if min(seed, start_step) < 0:
        raise ValueError(f"seed and start_step must be at least 0, got {seed} and {start_step}")
    rows = _share(batch_size, process_index, process_count)
    batches = _TrainBatches(source, transform, batch_size, seed, start_step, rows, on_bad_image)
    return Batches(batches, num_workers, num_threads, on_bad_image, keep_mask=False)


def eval_batches(
    source: Source,
    transform: Transform,
    *,
    batch_size: int,
    num_workers: int = 0,
    num_threads: int = 2,
    process_index: int = 0,
    process_count: int = 1,
    on_bad_image: OnBadImage = "stop",
) -> Batches:
    """Batches {"image", "label", "mask": bool [b]} with each example exactly once; every process gets as many.

    Where mask is False the row fills up the last batch, or stands for a bad image that was skipped: zeros, label 0.
    """
    batches = _EvalBatches(source, transform, batch_size, _share(batch_size, process_index, process_count))
    return Batches(batches, num_workers, num_threads, on_bad_image, keep_mask=True)
