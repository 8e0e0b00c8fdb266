"""How fast images come: read, decoded, cropped, batched, on the device; and what feeding and indexing cost.

Images of about 500x375 to 224x224: real ImageNet JPEGs where EPJAX_SHARED_DATA (or ../shared/data) holds
imagenet_sample.tar, else smooth noise. Other programs may run beside this one: what one thread does is timed by its CPU
time, and the best of several interleaved rounds counts.
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

from benchmarks import draw as look
from benchmarks.forms import Images
from benchmarks.rows import Row, Table, Target, at_least, at_most, find, only
from epjax.data import Dataset, Example, RandomResizedCropFlip, Source, open_dataset, prefetch, train_batches
from epjax.data.pipeline import Batches
from epjax.data.sources.idx import ArraySource
from epjax.data.transforms import PadCropFlip, Transform, decode

NAME = "pipeline"
COLUMNS = ("measure", "source", "threads", "workers", "value", "unit")

SIZE, BATCH = 224, 32
PILLOW, TRANSFORM = "bare Pillow: decode, crop", "decode, crop, flip over bare Pillow"
PIPELINE = "whole pipeline in one thread over bare Pillow"
SCALING, WAITING = "two threads over one", "share of time waiting for a batch"
BUILD, BUILD_MEMORY, LOAD, LOAD_MEMORY = (
    "index: build",
    "index: memory to build",
    "index: load",
    "index: memory to load",
)


def _row(measure: str, source: str, value: float, unit: str, **columns: Any) -> Row:
    number = round(value, 3) if value < 10 else round(value)
    start = {"measure": measure, "source": source, "threads": None, "workers": None, "value": number, "unit": unit}
    return start | columns


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


def toy(images: list[bytes]) -> Images:
    """The images as a training set of eleven classes, with one validation image."""
    train: dict[str, dict[str, bytes]] = {}
    for i, content in enumerate(images):
        train.setdefault(f"n{i % 10:08d}", {})[f"n{i % 10:08d}_{i}.JPEG"] = content
    # Validation images of the ILSVRC tar have their true classes, which the tiny training set must know.
    val = {"n01751748": {"ILSVRC2012_val_00000001.JPEG": images[0]}}
    return Images({"train": train | {"n01751748": {"n01751748_0.JPEG": images[0]}}, "val": val})


def forms(made: Images, root: Path) -> dict[str, Dataset]:
    """The images in every form that holds files."""
    return {
        "folder": open_dataset(f"folder:{made.folder(root / 'folder')}"),
        "ILSVRC2012 tars": open_dataset(f"tar:{made.ilsvrc_tars(root / 'tars')}"),
        "tar of class folders": open_dataset(f"tar:{made.class_tar(root / 'images.tar')}"),
        "ArrayRecord": open_dataset(f"tfds:imagenet2012@{made.array_record(root / 'tfds')}"),
    }


# Rates


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of all threads."""
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


def batches_of(source: Source, transform: Transform, threads: int, workers: int) -> Batches:
    """Training batches without end, from the first."""
    return train_batches(source, transform, batch_size=BATCH, seed=0, num_threads=threads, num_workers=workers)


def stages(name: str, source: Source, transform: Transform, rounds: int) -> list[Row]:
    """Images a second of CPU time after each stage in one thread; each includes the stages before it."""
    indices, rng = range(len(source)), np.random.default_rng(0)
    work: dict[str, Callable[[], object]] = {
        "read": lambda: [source[i] for i in indices],
        "decode": lambda: [decode(source[i]) for i in indices],
        "augment": lambda: [transform(source[i], rng) for i in indices],
    }
    rate = {stage: len(source) / min(cpu_seconds(f) for _ in range(rounds)) for stage, f in work.items()}
    return [_row(stage, name, value, "images/s of CPU time", threads=1, workers=0) for stage, value in rate.items()]


def batching(name: str, source: Source, transform: Transform, quick: bool) -> list[Row]:
    """Images a second of whole batches, by threads and worker processes, then on the device."""
    import jax

    steps, rounds, rows = (2, 1, []) if quick else (8, 3, [])
    for threads, workers in ((1, 0), (2, 0), (1, 1), (1, 2)):
        with batches_of(source, transform, threads, workers) as batches:
            rate = _batch_rate(batches, steps, rounds)
            rows.append(_row("batch", name, rate, "images/s", threads=threads, workers=workers))
    with prefetch(batches_of(source, transform, 2, 0), jax.device_put) as items:
        rows.append(_row("transfer", name, _batch_rate(items, steps, rounds), "images/s", threads=2, workers=0))
    return rows


# Promises


def against_pillow(images: list[bytes], rounds: int) -> list[Row]:
    """Bare Pillow's rate, and the transform's and the pipeline's over it (median of rounds); all in one thread."""
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

    with batches_of(examples, transform, 0, 0) as batches:  # Without threads of its own: all in this one.
        times: dict[Callable[[], None], list[float]] = {f: [] for f in (bare, ours, pipeline)}
        for _ in range(rounds):
            for f, seconds in times.items():
                seconds.append(cpu_seconds(f) / len(images))
    ratio = {f: float(np.median(np.divide(times[bare], t))) for f, t in times.items()}
    return [
        _row(PILLOW, "memory", 1 / min(times[bare]), "images/s of CPU time", threads=1, workers=0),
        _row(TRANSFORM, "memory", ratio[ours], "of the rate", threads=1, workers=0),
        _row(PIPELINE, "memory", ratio[pipeline], "of the rate", threads=1, workers=0),
    ]


def scaling(images: list[bytes], rounds: int) -> list[Row]:
    """Two threads over one, in interleaved rounds."""
    examples, rates = [Example(b, 0, "") for b in images], {1: 0.0, 2: 0.0}
    for _ in range(rounds):
        for threads in rates:
            with batches_of(examples, RandomResizedCropFlip(SIZE), threads, 0) as batches:
                rates[threads] = max(rates[threads], _batch_rate(batches, 16, 1))
    return [_row(SCALING, "memory", rates[2] / rates[1], "of the rate", threads=2, workers=0)]


def feeding(images: list[bytes], steps: int, rounds: int) -> list[Row]:
    """The share of time spent waiting when a step takes as long as the pipeline has just needed for a batch."""
    examples, shares = [Example(b, 0, "") for b in images], []
    with prefetch(batches_of(examples, RandomResizedCropFlip(SIZE), 2, 0), lambda batch: batch) as items:
        for _ in range(rounds):
            needed = BATCH / _batch_rate(items, steps, 1)
            waited, start = items.waited, time.perf_counter()
            for _ in range(steps):
                time.sleep(needed)  # The step, on a device.
                next(items)
            shares.append((items.waited - waited) / (time.perf_counter() - start))
    return [_row(WAITING, "memory", float(np.median(shares)), "of the time", threads=2, workers=0)]


_INDEX = """
import json, sys, time
from pathlib import Path
from epjax.data.sources.tar import build_index
status = Path("/proc/self/status")
memory = lambda field: int(status.read_text().split(field + ":")[1].split()[0]) / 1024 if status.exists() else 0.0
if status.exists():
    Path("/proc/self/clear_refs").write_text("5")  # Forget the peak of the imports.
before, start = memory("VmRSS"), time.perf_counter()
index = build_index(Path(sys.argv[1]), "nested")["train"]
print(json.dumps([len(index.offsets), time.perf_counter() - start, memory("VmHWM") - before]))
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
        _row(BUILD, name, built[1], "s"),
        _row(BUILD_MEMORY, name, built[2], "MB"),
        _row(LOAD, name, loaded[1], "s"),
        _row(LOAD_MEMORY, name, loaded[2], "MB"),
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
        rows += against_pillow(images, 1 if quick else 15)
        rows += scaling(images, 1 if quick else 6)
        rows += feeding(images, 4 if quick else 20, 1 if quick else 7)
        rows += indexing(10_000 if quick else 1_280_000, root)
        for name, dataset in forms(toy(images), root).items():
            rows += stages(name, dataset.train, RandomResizedCropFlip(SIZE), rounds)
        rows += batching(name, dataset.train, RandomResizedCropFlip(SIZE), quick)
        small = ArraySource(np.zeros((512, 32, 32, 3), np.uint8), np.zeros(512), "arrays", 10)
        rows += stages("arrays, 32x32", small, PadCropFlip(32), rounds)
        rows += batching("arrays, 32x32", small, PadCropFlip(32), quick)
    return [row | {"data": what} for row in rows]


def targets(rows: list[Row]) -> list[Target]:
    """what the pipeline must reach."""
    value = {row["measure"]: row["value"] for row in rows if row["source"] == "memory" or "index" in row["measure"]}
    return [
        at_least(TRANSFORM, value[TRANSFORM], 0.9),
        at_least(PIPELINE, value[PIPELINE], 0.9),
        at_least(SCALING, value[SCALING], 1.8),
        at_most(f"{WAITING}, the step being as long", value[WAITING], 0.05),
        at_most("index of 1.28 million images: MB to build", value[BUILD_MEMORY], 200),
        at_most("index of 1.28 million images: MB to load", value[LOAD_MEMORY], 200),
        at_most("index of 1.28 million images: seconds to load", value[LOAD], 2),
    ]


def tables(rows: list[Row]) -> list[Table]:
    """Stages by source; batches by threads and workers; the rest."""
    stage_rows: list[Row] = []
    for source in dict.fromkeys(row["source"] for row in find(rows, measure="read")):
        values = {m: only(rows, source=source, measure=m) for m in ("read", "decode", "augment")}
        stage_rows.append({"source": source} | {m: row["value"] if row else None for m, row in values.items()})
    batches = [row for row in rows if row["measure"] in ("batch", "transfer")]
    rest = [row for row in rows if row["measure"] not in ("read", "decode", "augment", "batch", "transfer")]
    stages_title = "Images/s of CPU time after each stage, one thread"
    return [
        Table(stages_title, ("source", "read", "decode", "augment"), stage_rows),
        Table(
            "Batches, images/s; transfer: on the device", ("source", "measure", "threads", "workers", "value"), batches
        ),
        Table("From memory, and indices of tars", COLUMNS, rest),
    ]


def draw(rows: list[Row], path: Path) -> None:
    """Left: where one core's time goes, for each source. Right: batches by threads and workers."""
    title = "From the file to the device: decoding takes most of an image's time"
    subtitle = f"JPEGs of about 500x375 to {SIZE}x{SIZE}, random-resized crop and flip, batches of {BATCH}, uint8"
    figure, axes = look.figure(title, subtitle, (1, 2))
    photographs_only = [row for row in rows if "32x32" not in row["source"]]
    _draw_stages(axes[0, 0], photographs_only)
    _draw_batches(axes[0, 1], photographs_only)
    look.save(figure, path)


def _draw_stages(axes: Any, rows: list[Row]) -> None:
    sources = list(dict.fromkeys(row["source"] for row in find(rows, measure="read")))
    start = np.zeros(len(sources))
    for stage, colour in zip(("read", "decode", "augment"), look.COLOURS, strict=False):
        until = np.array([1000 / find(rows, measure=stage, source=source)[0]["value"] for source in sources])
        axes.barh(sources, until - start, 0.6, left=start, color=colour, label=stage)
        start = until
    for place, total in enumerate(start):
        axes.text(total, place, f"  {1000 / total:.0f} images/s", va="center", fontsize=7, color=look.INK)
    pillow = 1000 / find(rows, measure=PILLOW)[0]["value"]
    axes.axvline(pillow, color=look.INK, linewidth=0.9, linestyle="--", label="bare Pillow")
    axes.set_xlim(0, 1.35 * start.max())
    axes.set_ylim(len(sources) - 0.5, -1.0)
    look.dress(axes, "one core", "CPU time of an image, ms", legend=False)
    axes.legend(framealpha=1, edgecolor="none", fontsize=7.5, labelcolor=look.INK, ncols=4, loc="upper left")


def _draw_batches(axes: Any, rows: list[Row]) -> None:
    kept = [row for row in rows if row["measure"] in ("batch", "transfer")]
    bars = axes.barh([_label(row) for row in kept], [row["value"] for row in kept], 0.6, color=look.GREEN)
    axes.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=7, color=look.INK)
    axes.margins(x=0.15)
    axes.invert_yaxis()
    look.dress(axes, "whole batches through grain", "images/s")


def _label(row: Row) -> str:
    processes = f"{row['workers']} worker{'s' * (row['workers'] > 1)}\n" if row["workers"] else ""
    device = "\nto the device" if row["measure"] == "transfer" else ""
    return f"{processes}{row['threads']} thread{'s' * (row['threads'] > 1)}{device}"
