"""The cells of a figure on disk: one JSON file for each that is finished, run where it is missing."""

import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epjax.runs import machine
from epjax.runs.config import store
from epjax.runs.workdir import own
from experiments.reproduce.cell import COMPILATION, Cell, Result, name_of

FIELDS = {"place", "config", "diverged", "seconds", "machine"}


@dataclass(frozen=True)
class Part:
    """The cells of one machine among `of`: those at places index - 1, index - 1 + of, ..."""

    index: int = 1
    of: int = 1

    @classmethod
    def read(cls, text: str) -> "Part":
        """From I/N. Raises ValueError unless 1 <= I <= N."""
        index, _, of = text.partition("/")
        if not (index.isdigit() and of.isdigit() and 1 <= int(index) <= int(of)):
            raise ValueError(f"--part must be I/N with 1 <= I <= N, got {text!r}")
        return cls(int(index), int(of))

    def take(self, cells: Sequence[Cell]) -> list[Cell]:
        """The cells of this part."""
        return list(cells[self.index - 1 :: self.of])


@dataclass(frozen=True)
class Grid:
    """A figure's cells and the folder where their results lie."""

    figure: str
    cells: Sequence[Cell]
    folder: Path

    def path(self, cell: Cell) -> Path:
        """Where the cell's result lies, or will."""
        return self.folder / f"{name_of(cell)}.json"

    def result(self, cell: Cell) -> Result | None:
        """What the cell came to. A file that cannot be read, or is of another configuration, is moved aside."""
        path = self.path(cell)
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_text())
            whole = isinstance(content, dict) and set(content) >= FIELDS
        except ValueError:
            whole = False
        if whole and content["config"] == _plain(cell.identity()):
            return content  # type: ignore[no-any-return]
        aside = path.with_suffix(".damaged" if not whole else ".other")
        os.replace(path, aside)
        why = "is damaged" if not whole else "is of another configuration"
        print(f"warning: {path} {why}: moved to {aside.name}, its cell is run again", file=sys.stderr)
        return None

    def results(self) -> list[Result]:
        """Of all cells that are finished, in order."""
        return [found for cell in self.cells if (found := self.result(cell)) is not None]

    def run(self, part: Part, data: Path, minutes: float | None, tell: Callable[[str], None]) -> None:
        """The missing cells of `part`, one after the other, as many as fit into `minutes`.

        Raises ValueError where not even one does.
        """
        start, pace, ran = time.perf_counter(), _Pace(), 0
        for cell in part.take(self.cells):
            if self.result(cell) is not None:
                continue
            if minutes is not None:
                needed = pace.seconds(cell)
                if time.perf_counter() - start + needed > 60 * minutes:
                    if not ran:
                        what = f"one cell of {self.figure}: {name_of(cell)} needs about {needed / 60:.1f}"
                        raise ValueError(f"--minutes {minutes:g} is too small for {what}")
                    tell(f"the {minutes:g} minutes are over: the same command goes on from here")
                    return
            tell(f"now {name_of(cell)}")
            seconds, ran = self._run(cell, data), ran + 1
            if minutes is not None:
                pace.add(cell, seconds)

    def _run(self, cell: Cell, data: Path) -> float:
        folder, began = self.folder / f"{name_of(cell)}.run", time.perf_counter()
        with own(self.folder / "locks" / name_of(cell)), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="iterations=")  # too few iterations are what is looked at
            found = cell.run(folder, data)
        seconds = round(time.perf_counter() - began, 1)
        facts = {"place": dict(cell.place), "config": _plain(cell.identity())}
        store(facts | found | {"seconds": seconds, "machine": machine.describe()}, self.path(cell))
        return seconds


class _Pace:
    """Seconds that a cell will take: its forward passes at this machine's pace, corrected by those that ran."""

    def __init__(self) -> None:
        self._ratios: list[float] = []

    def _plain(self, cell: Cell) -> float:
        return cell.forwards() * cell.forward_seconds()

    def seconds(self, cell: Cell) -> float:
        """About."""
        return COMPILATION + self._plain(cell) * (statistics.median(self._ratios) if self._ratios else 1.0)

    def add(self, cell: Cell, seconds: float) -> None:
        """A cell that ran."""
        self._ratios.append(max(seconds - COMPILATION, 1.0) / max(self._plain(cell), 1.0))


def _plain(value: Any) -> Any:
    """As JSON would give it back."""
    return json.loads(json.dumps(value))
