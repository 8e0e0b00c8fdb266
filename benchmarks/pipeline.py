"""How fast images come: read, decoded, cropped, batched, on the device; and what feeding and indexing cost.

    python -m benchmarks pipeline [--json FILE] [--quick]

Images: real ImageNet JPEGs of about 500x375 where EPJAX_SHARED_DATA (or ../shared/data) holds imagenet_sample.tar, else
smooth noise of that size. Rows with a `target` are the promises; the rest tell where the time goes. The machine may do
something else as well: single threads are timed by their CPU time, and the best of several interleaved rounds counts.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.forms import Images
from epjax.data import Dataset, Example, RandomResizedCropFlip, Source, open_dataset, prefetch, train_batches
from epjax.data.pipeline import Batches
from epjax.data.sources.idx import ArraySource
from epjax.data.transforms import PadCropFlip, Transform, decode

NAME = "pipeline"
COLUMNS = ("source", "stage", "threads", "workers", "value", "unit", "target")

SIZE, BATCH = 224, 32
Row = dict[str, Any]


def _row(source: str, stage: str, value: float, unit: str, target: str = "", **columns: Any) -> Row:
    number = round(value, 3) if value < 10 else round(value)
    return (
        {"source": source, "stage": stage, "threads": None, "workers": None}
        | columns
        | {
            "value": number,
            "unit": unit,
            "target": target,
        }
    )


# Images


def photographs(count: int) -> tuple[list[bytes], str]:
    """JPEGs of about 500x375, and what they are."""
    shared = Path(os.environ.get("EPJAX_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if (shared / "imagenet_sample.tar").is_file():
        with tarfile.open(shared / "imagenet_sample.tar") as tar:
            files = [tar.extractfile(m) for m in tar if m.isfile()]
            found = [file.read() for file in files if file is not None]
        sizes = [Image.open(io.BytesIO(b)).size for b in found]
        return [b for b, s in zip(found, sizes, strict=True) if max(s) == 500 and 330 <= min(s) <= 380][
            :count
        ], "ImageNet"
    rng = np.random.default_rng(0)
    return [_noise(rng) for _ in range(count)], "smooth noise"


def _noise(rng: np.random.Generator) -> bytes:
    """Noise of several octaves: a JPEG of about 100 kB, as in ImageNet."""
    pixels = np.zeros((375, 500, 3))
    for octave in range(7):
        grid = rng.integers(0, 256, (2 ** (octave + 1), 2 ** (octave + 1), 3), dtype=np.uint8)
        pixels += np.asarray(Image.fromarray(grid).resize((500, 375), Image.Resampling.BICUBIC)) / 2**octave
    file = io.BytesIO()
    Image.fromarray((pixels / 2).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()


def forms(images: list[bytes], root: Path) -> dict[str, Dataset]:
    """The images in every form that holds files."""
    train: dict[str, dict[str, bytes]] = {}
    for i, content in enumerate(images):
        train.setdefault(f"n{i % 10:08d}", {})[f"n{i % 10:08d}_{i}.JPEG"] = content
    # Validation images of the ILSVRC tar have their true classes, which the tiny training set must know.
    val = {"n01751748": {"ILSVRC2012_val_00000001.JPEG": images[0]}}
    made = Images({"train": train | {"n01751748": {"n01751748_0.JPEG": images[0]}}, "val": val})
    return {
        "folder": open_dataset(f"folder:{made.folder(root / 'folder')}"),
        "ILSVRC2012 tars": open_dataset(f"tar:{made.ilsvrc_tars(root / 'tars')}"),
        "tar of class folders": open_dataset(f"tar:{made.class_tar(root / 'images.tar')}"),
        "ArrayRecord": open_dataset(f"tfds:imagenet2012@{made.array_record(root / 'tfds')}"),
    }


# Rates


def _cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def best_rate(count: int, work: Callable[[], object], rounds: int) -> float:
    """Items a second in the best of some rounds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return count / min(times)


def _batch_rate(batches: Iterator[Any], steps: int, rounds: int) -> float:
    next(batches)
    return best_rate(steps * BATCH, lambda: [next(batches) for _ in range(steps)], rounds)


def _batches(source: Source, transform: Transform, threads: int, workers: int) -> Batches:
    return train_batches(source, transform, batch_size=BATCH, seed=0, num_threads=threads, num_workers=workers)


def stages(name: str, source: Source, transform: Transform, rounds: int) -> list[Row]:
    """Images a second of CPU time after each stage in one thread; each includes the stages before it."""
    indices, rng = range(len(source)), np.random.default_rng(0)
    work: dict[str, Callable[[], object]] = {
        "read": lambda: [source[i] for i in indices],
        "decode": lambda: [decode(source[i]) for i in indices],
        "augment": lambda: [transform(source[i], rng) for i in indices],
    }
    return [
        _row(name, stage, len(source) / min(_cpu_seconds(f) for _ in range(rounds)), "images/s", threads=1, workers=0)
        for stage, f in work.items()
    ]


def batching(name: str, source: Source, transform: Transform, quick: bool) -> list[Row]:
    """Images a second of whole batches, by threads and worker processes, then on the device."""
    import jax

    steps, rounds, rows = (2, 1, []) if quick else (8, 3, [])
    for threads, workers in ((1, 0), (2, 0), (1, 1), (1, 2)):
        with _batches(source, transform, threads, workers) as batches:
            rate = _batch_rate(batches, steps, rounds)
            rows.append(_row(name, "batch", rate, "images/s", threads=threads, workers=workers))
    with prefetch(_batches(source, transform, 2, 0), jax.device_put) as items:
        rows.append(_row(name, "transfer", _batch_rate(items, steps, rounds), "images/s", threads=2, workers=0))
    return rows


# Promises


def against_pillow(images: list[bytes], rounds: int) -> list[Row]:
    """CPU time of bare Pillow over that of the transform, and over that of the whole pipeline, all in one thread."""
    transform = RandomResizedCropFlip(SIZE)
    examples = [Example(b, 0, "") for b in images]
    sizes = [Image.open(io.BytesIO(content)).size for content in images]
    boxes = [transform._box(*size, np.random.default_rng((0, 1, 0, i))) for i, size in enumerate(sizes)]

    def bare() -> None:
        for content, box in zip(images, boxes, strict=True):
            np.asarray(
                Image.open(io.BytesIO(content)).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR, box)
            )

    def ours() -> None:
        for i, example in enumerate(examples):
            transform(example, np.random.default_rng((0, 1, 0, i)))

    def pipeline() -> None:
        for _ in range(len(images) // BATCH):
            next(batches)

    with _batches(examples, transform, 0, 0) as batches:  # Without threads of its own: all in this one.
        times: dict[Callable[[], None], list[float]] = {f: [] for f in (bare, ours, pipeline)}
        for _ in range(rounds):
            for f, seconds in times.items():
                seconds.append(_cpu_seconds(f) / len(images))
    rate = {f: 1 / min(seconds) for f, seconds in times.items()}
    return [
        _row("memory", "bare Pillow: decode, crop", rate[bare], "images/s", threads=1, workers=0),
        _row("memory", "decode, crop, flip / bare Pillow", rate[ours] / rate[bare], "of the rate", ">= 0.9"),
        _row("memory", "whole pipeline / bare Pillow", rate[pipeline] / rate[bare], "of the rate", ">= 0.9"),
    ]


def scaling(images: list[bytes], rounds: int) -> list[Row]:
    """Two threads over one, in interleaved rounds."""
    examples, rates = [Example(b, 0, "") for b in images], {1: 0.0, 2: 0.0}
    for _ in range(rounds):
        for threads in rates:
            with _batches(examples, RandomResizedCropFlip(SIZE), threads, 0) as batches:
                rates[threads] = max(rates[threads], _batch_rate(batches, 16, 1))
    return [_row("memory", "two threads / one", rates[2] / rates[1], "of the rate", ">= 1.8")]


def feeding(images: list[bytes], steps: int) -> list[Row]:
    """The share of time spent waiting when a step takes as long as the pipeline needs for a batch."""
    examples = [Example(b, 0, "") for b in images]
    with prefetch(_batches(examples, RandomResizedCropFlip(SIZE), 2, 0), lambda batch: batch) as items:
        for _ in range(4):
            next(items)
        start = time.perf_counter()
        for _ in range(steps):
            next(items)
        needed = (time.perf_counter() - start) / steps
        waited, start = items.waited, time.perf_counter()
        for _ in range(steps):
            time.sleep(needed)  # The step, on a device.
            next(items)
        share = (items.waited - waited) / (time.perf_counter() - start)
    return [_row("memory", "waiting, step as long as a batch", share, "of the time", "<= 0.05", threads=2, workers=0)]


_INDEX = """
import json, resource, sys, time
from pathlib import Path
from epjax.data.sources.tar import build_index
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, start = peak(), time.perf_counter()
index = build_index(Path(sys.argv[1]), "nested")["train"]
print(json.dumps([len(index.offsets), time.perf_counter() - start, peak() - before]))
"""


def indexing(members: int, root: Path) -> list[Row]:
    """Building and loading the index of a tar of 1000 tars, and the memory that takes beyond the imports."""
    path = root / "ILSVRC2012_img_train.tar"
    _synthetic_tar(path, members)
    environment = os.environ | {"XDG_CACHE_HOME": str(root / "cache")}
    command = [sys.executable, "-c", _INDEX, str(path)]
    built, loaded = (
        json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
        for _ in range(2)
    )
    name = f"tar of {built[0]:,} images"
    path.unlink()
    return [
        _row(name, "build the index", built[1], "s"),
        _row(name, "build the index: memory", built[2], "MB", "< 200"),
        _row(name, "load the index", loaded[1], "s", "< 2"),
        _row(name, "load the index: memory", loaded[2], "MB", "< 200"),
    ]


def _synthetic_tar(path: Path, members: int) -> None:
    """A tar of 1000 tars as ILSVRC2012's, of images of 512 bytes."""
    with open(path, "wb") as file:
        for k in range(1000):
            inner = io.BytesIO()
            for i in range(members // 1000):
                inner.write(_header(f"n{k:08d}_{i}.JPEG", 512) + bytes(512))
            inner.write(bytes(1024))
            file.write(_header(f"n{k:08d}.tar", inner.tell()))
            file.write(inner.getvalue())
        file.write(bytes(1024))


def _header(name: str, size: int) -> bytes:
    block = bytearray(512)
    fields = {
        0: name.encode(),
        100: b"0000644\0",
        124: b"%011o\0" % size,
        148: b" " * 8,
        156: b"0",
        257: b"ustar\x0000",
    }
    for start, content in fields.items():
        block[start : start + len(content)] = content
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


# The benchmark


def run(quick: bool) -> list[Row]:
    """All rows; `quick` takes few images and measures nothing well."""
    images, what = photographs(32 if quick else 96)
    rounds, rows = (1 if quick else 5), []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ.setdefault("XDG_CACHE_HOME", str(root / "cache"))
        rows += against_pillow(images, rounds)
        rows += scaling(images, 1 if quick else 8)
        rows += feeding(images, 4 if quick else 60)
        rows += indexing(10_000 if quick else 1_280_000, root)
        for name, dataset in forms(images, root).items():
            rows += stages(f"{name} ({what})", dataset.train, RandomResizedCropFlip(SIZE), rounds)
        rows += batching(f"{name} ({what})", dataset.train, RandomResizedCropFlip(SIZE), quick)
        small = ArraySource(np.zeros((512, 32, 32, 3), np.uint8), np.zeros(512), "arrays", 10)
        rows += stages("arrays (32x32)", small, PadCropFlip(32), rounds)
        rows += batching("arrays (32x32)", small, PadCropFlip(32), quick)
    return rows


def draw(rows: list[Row], path: Path) -> None:
    """Bars: images a second after each stage of one source."""
    import matplotlib.pyplot as plt

    kept = [r for r in rows if r["unit"] == "images/s" and r["source"].startswith(("ArrayRecord", "memory"))]
    labels = [_label(r) for r in kept]
    figure, axes = plt.subplots(figsize=(8, 0.42 * len(kept) + 1.2), layout="constrained")
    colours = {"read": "#9aa5b1", "decode": "#7b8794", "augment": "#486581", "batch": "#2f80ed", "transfer": "#27ae60"}
    bars = axes.barh(labels, [r["value"] for r in kept], color=[colours.get(r["stage"], "#d9b44a") for r in kept])
    axes.bar_label(bars, fmt="{:,.0f}", padding=3)
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("images/s, 500x375 to 224x224 (logarithmic)")
    axes.set_title("From the file to the device: each bar includes the stages above it in its thread", fontsize=10)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _label(row: Row) -> str:
    processes = f", {row['workers']} worker{'s' * (row['workers'] > 1)}" if row["workers"] else ""
    return f"{row['stage']}, {row['threads']} thread{'s' * (row['threads'] > 1)}{processes}"
