"""A line for every row that is done: some of these measurements take an hour."""

import sys
import time
from collections.abc import Iterable

from benchmarks.rows import Row, text

NAMES = ("network", "state", "name", "precision", "beta", "iterations", "sign")


def told(rows: Iterable[Row]) -> list[Row]:
    """The rows as a list; each is told on the standard error when it comes."""
    start, found = time.perf_counter(), []
    for row in rows:
        found.append(row)
        words = " ".join(text(row[name]) for name in NAMES if name in row)
        print(f"{time.perf_counter() - start:7.0f} s  {words}", file=sys.stderr, flush=True)
    return found
