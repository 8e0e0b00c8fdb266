"""The paper's figures, at a size that one machine can run.

    python -m experiments.reproduce parity --data /data
    python -m experiments.reproduce sensitivity --data /data --minutes 30        # as much as fits; again: goes on
    python -m experiments.reproduce sensitivity --data /data --part 1/2          # the other half on another machine

Figures: schemes, sensitivity, traversal, update, parity, batch-size, curves, skip; and studies of our own, parity-full,
defaults, guard, systems, convolutional, hardware and text, which take hours. Each keeps one JSON file for every
finished run in RUNS/FIGURE, and writes FIGURE.json, FIGURE.png and the page README.md to OUT. To join the parts of
several machines, copy their files into one RUNS/FIGURE and run the command there.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from epjax.runs.command import sentence
from epjax.runs.config import store
from epjax.runs.progress import plain_console
from epjax.runs.stopping import STOPPED_EXIT_CODE, Stopped
from experiments.reproduce import page
from experiments.reproduce.figure import Figure
from experiments.reproduce.grid import Grid, Part

PAPER = ("schemes", "sensitivity", "traversal", "update", "parity", "batch-size", "curves", "skip")
FIGURES = (*PAPER, "parity-full", "defaults", "guard", "demo", "systems", "convolutional", "hardware", "text")
DATA = "EPJAX_SHARED_DATA"


@dataclass(frozen=True)
class Options:
    """Run the missing cells of one of the paper's figures, then draw it."""

    figure: tyro.conf.Positional[str]
    """One of schemes, sensitivity, traversal, update, parity, batch-size, curves, skip, parity-full, defaults,
    guard, demo, systems, convolutional, hardware, text."""
    minutes: float | None = None
    """Start no run that would end later than this. Default: run them all, within 90 minutes on two cores."""
    data: Annotated[Path, tyro.conf.arg(metavar="DIR")] = field(
        default_factory=lambda: Path(os.environ.get(DATA, "../shared/data"))
    )
    """Folder with mnist, fashion_mnist, cifar10.tar, tiny_imagenet_20.tar, imagenet_sample.tar,
    tinyshakespeare.txt.gz."""
    runs: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/reproduce")
    """Where each run's result is kept, so that it is not run again."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where the figure's JSON, its picture and the page go. Default: the folder of RUNS."""
    part: str = "1/1"
    """I/N: every Nth run, from the Ith on, to split a grid over machines."""
    quick: bool = False
    """A few tiny runs, to see that it works."""


def load(name: str) -> Figure:
    """The figure of that name."""
    return importlib.import_module(f"experiments.reproduce.figures.{name.replace('-', '_')}")  # type: ignore[return-value]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, 1 for data or a budget that cannot be used, 2 for an unknown figure, 75 after a signal."""
    options = tyro.cli(
        Options, prog="python -m experiments.reproduce", args=argv, config=(tyro.conf.FlagCreatePairsOff,)
    )
    if options.figure not in FIGURES:
        print(f"error: FIGURE must be one of {', '.join(FIGURES)}, got {options.figure!r}", file=sys.stderr)
        return 2
    console = plain_console()
    try:
        reproduce(options, console)
    except Stopped as stop:
        console.print(str(stop))
        return STOPPED_EXIT_CODE
    except (ValueError, OSError) as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 1
    return 0


def reproduce(options: Options, console: Console) -> None:
    """Run, then draw what is there."""
    if options.minutes is not None and not options.minutes > 0:
        raise ValueError(f"--minutes must be positive, got {options.minutes:g}")
    figure, part = load(options.figure), Part.read(options.part)
    kind = "quick" if options.quick else options.figure
    folder = options.runs / (f"{options.figure}-quick" if kind == "quick" else options.figure)
    grid = Grid(options.figure, figure.cells(options.quick), folder)

    def tell(message: str) -> None:
        done = len(grid.results())
        console.print(f"{done} of {len(grid.cells)} finished: {message}", soft_wrap=True)

    grid.run(part, options.data, options.minutes, tell)
    finish(figure, grid, options.out or options.runs, console)


def finish(figure: Figure, grid: Grid, out: Path, console: Console) -> None:
    """JSON, picture, page; the findings on the screen."""
    results = grid.results()
    out.mkdir(parents=True, exist_ok=True)
    store(
        {"figure": figure.NAME, "title": figure.TITLE, "total": len(grid.cells), "cells": results},
        out / f"{figure.NAME}.json",
    )
    page.write([load(name) for name in FIGURES], out)
    if len(results) == len(grid.cells):
        figure.draw(results, out / f"{figure.NAME}.png")
    table = Table(title=figure.TITLE, title_justify="left")
    for name in ("claim", "verdict", "evidence"):
        table.add_column(name)
    for f in page.judge(figure, results, len(grid.cells)):
        table.add_row(f.claim, f.verdict, f.evidence)
    console.print(table)
    console.print(f"in {out}: {figure.NAME}.json, {figure.NAME}.png, README.md", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
