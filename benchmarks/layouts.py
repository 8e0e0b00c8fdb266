"""How fast images come from each layout of folders, and how long it takes to list the names of 1.28 million.

* layouts: the training images of the pipeline's benchmark, the same in the same order, through the whole pipeline in
  one thread; CPU time, the layouts in turn. The ratio to class folders is the median over rounds, after one to warm up.
* listing: opening 1000 class folders of links to one file, for the first time and the next, by the clock, while other
  programs may run beside this one.
"""

import contextlib
import itertools
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import draw as look
from benchmarks.forms import Images
from benchmarks.pipeline import BATCH, SIZE, batches_of, cpu_seconds, photographs, toy
from benchmarks.rows import Row, Table, Target, at_least, at_most, find, only
from epjax.data import RandomResizedCropFlip, Source, open_dataset
from epjax.data.sources.layouts import is_validation

NAME = "layouts"
COLUMNS = ("measure", "source", "value", "unit")

FOLDERS = "train/CLASS/*, val/CLASS/*"
RATE, RATIO = "images/s of CPU time", "of the rate of class folders"
FIRST, NEXT = "first start", "next start"


def _row(measure: str, source: str, value: float, unit: str) -> Row:
    number = round(value, 3) if value < 100 else round(value)
    return {"measure": measure, "source": source, "value": number, "unit": unit}


def layouts(made: Images, root: Path) -> dict[str, Source]:
    """The training images in every layout of folders, class folders first: the same in the same order."""
    lists, kit = made.flat(root / "lists"), made.flat(root / "kit")
    (lists / "val.txt").write_text("".join(f"{file} {c}\n" for c, file in made.validation()))
    made.devkit(kit, dict.fromkeys(made.splits["train"], "a word"))
    unsplit = Images({"train": made.splits["train"]}).folder(root / "unsplit") / "train"
    share, place = 1e-3, next(iter(made.splits["train"]))  # so small that one image alone is for validation: this one
    file = next(
        name for name in map("{}.JPEG".format, itertools.count()) if is_validation(f"{place}/{name}".encode(), share)
    )
    (unsplit / place / file).write_bytes(b"x")
    found = {
        FOLDERS: open_dataset(str(made.folder(root / "folders"))),
        "flat val/, NAME LABEL": open_dataset(str(lists)),
        "flat val/, devkit": open_dataset(str(kit)),
        "Kaggle": open_dataset(str(made.kaggle(root / "kaggle"))),
        "Tiny ImageNet": open_dataset(str(made.tiny(root / "tiny"))),
        "CLASS/* without a split": open_dataset(str(unsplit), share),
    }
    return {name: dataset.train for name, dataset in found.items()}


def over_folders(sources: dict[str, Source], rounds: int) -> list[Row]:
    """Each layout's rate through the pipeline, and over that of class folders (median of interleaved rounds)."""
    times: dict[str, list[float]] = {name: [] for name in sources}
    steps = len(sources[FOLDERS]) // BATCH
    with contextlib.ExitStack() as stack:
        transform = RandomResizedCropFlip(SIZE)
        batches = {name: stack.enter_context(batches_of(source, transform, 0, 0)) for name, source in sources.items()}
        for turn in range(rounds + 1):
            names = list(sources)[turn % len(sources) :] + list(sources)[: turn % len(sources)]
            for name in names:
                times[name].append(cpu_seconds(lambda it=batches[name]: [next(it) for _ in range(steps)]))  # type: ignore[misc]
    rows = [_row(RATE, name, steps * BATCH / min(t), "images/s") for name, t in times.items()]
    ratios = {name: float(np.median(np.divide(times[FOLDERS], t)[1:])) for name, t in times.items() if name != FOLDERS}
    return rows + [_row(RATIO, name, ratio, "") for name, ratio in ratios.items()]


def listing(count: int, root: Path) -> list[Row]:
    """Opening folders of so many links to one file, for the first time and the next."""
    root.mkdir()
    (root / "one.bin").write_bytes(b"x")
    for k in range(1000):
        for split, each in (("train", count // 1000), ("val", 1)):
            folder = root / split / f"n{k:08d}"
            folder.mkdir(parents=True)
            for i in range(each):
                (folder / f"n{k:08d}_{i}.JPEG").symlink_to("../../one.bin")
    time.sleep(2.1)  # Folders that have just changed are not kept.
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        open_dataset(str(root))
        seconds.append(time.perf_counter() - start)
    shutil.rmtree(root)
    name = f"{count:,} links in 1,000 folders"
    return [_row(FIRST, name, seconds[0], "s"), _row(NEXT, name, seconds[1], "s")]


def run(quick: bool) -> list[Row]:
    """All rows; `quick` takes few images and few names."""
    images, what = photographs(32 if quick else 96)
    rounds = 2 if quick else 24
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        os.environ.setdefault("XDG_CACHE_HOME", str(root / "cache"))
        rows = over_folders(layouts(toy(images), root / "layouts"), rounds)
        rows += listing(10_000 if quick else 1_280_000, root / "names")
    return [row | {"data": what, "precision": "uint8", "repeats": rounds, "batch_size": BATCH} for row in rows]


def targets(rows: list[Row]) -> list[Target]:
    """what the layouts must reach."""
    slowest = min(row["value"] for row in find(rows, measure=RATIO))
    return [
        at_least("slowest layout over class folders: images/s", slowest, 0.97),
        at_most("names of 1.28 million images: seconds of the first start", find(rows, measure=FIRST)[0]["value"], 20),
    ]


def tables(rows: list[Row]) -> list[Table]:
    """Rates by layout; seconds of starts."""
    rates: list[Row] = []
    for row in find(rows, measure=RATE):
        ratio = only(rows, measure=RATIO, source=row["source"])
        rates.append({"layout": row["source"], RATE: row["value"], RATIO: ratio["value"] if ratio else None})
    timed = [row for row in rows if row["unit"] == "s"]
    starts = [{"names": row["source"], "start": row["measure"], "seconds": row["value"]} for row in timed]
    return [
        Table("Whole pipeline, one thread", ("layout", RATE, RATIO), rates),
        Table("Opening folders", ("names", "start", "seconds"), starts),
    ]


def draw(rows: list[Row], path: Path) -> None:
    """Left: images a second by layout. Right: seconds of the first start and the next."""
    subtitle = f"JPEGs of about 500x375 to {SIZE}x{SIZE}, random-resized crop and flip, batches of {BATCH}"
    figure, axes = look.figure("Image folders are read equally fast in whichever layout they lie", subtitle, (1, 2))
    seconds = [row for row in rows if row["unit"] == "s"]
    _bars(axes[0, 0], find(rows, measure=RATE), "source", "one core", RATE)
    _bars(axes[0, 1], seconds, "measure", seconds[0]["source"], "seconds")
    look.save(figure, path)


def _bars(axes: Any, rows: list[Row], name: str, title: str, unit: str) -> None:
    bars = axes.barh([row[name] for row in rows], [row["value"] for row in rows], 0.6, color=look.GREEN)
    axes.bar_label(bars, fmt="{:,.3g}", padding=3, fontsize=7, color=look.INK)
    axes.margins(x=0.15)
    axes.invert_yaxis()
    look.dress(axes, title, unit)
