"""Rows, targets and tables: what a benchmark hands over, and how their values are written."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """A number that was promised beside the one that was measured; `note` says why where it was missed."""

    name: str
    required: str
    measured: str
    met: bool
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under a caption; `columns` in order."""

    caption: str
    columns: tuple[str, ...]
    rows: Sequence[Row]


def at_most(name: str, value: float, limit: float, note: str = "") -> Target:
    """The target value <= limit."""
    return Target(name, f"<= {limit:g}", text(value), value <= limit, note)


def at_least(name: str, value: float, limit: float, note: str = "") -> Target:
    """The target value >= limit."""
    return Target(name, f">= {limit:g}", text(value), value >= limit, note)


def find(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """The rows that have all the wanted values."""
    return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]


def only(rows: Iterable[Row], **wanted: Any) -> Row | None:
    """The row that has all the wanted values, or None; LookupError where there are several."""
    found = find(rows, **wanted)
    if len(found) > 1:
        raise LookupError(f"{len(found)} rows have {wanted}")
    return found[0] if found else None


def text(value: Any) -> str:
    """A value for a table: a cosine near 1 keeps its nines, a small or large number has an exponent."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float) or not math.isfinite(value):
        return str(value)
    if abs(1 - value) < 0.01:
        return f"{value:.{1 - math.floor(math.log10(abs(1 - value)))}f}" if abs(1 - value) > 1e-9 else "1"
    if value and not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
