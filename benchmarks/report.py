"""Results on disk: JSON for a benchmark, the page that shows them all."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.table import Table as RichTable

from benchmarks.rows import Row, Table, Target, text
from epjax.runs.markdown import markdown


class Benchmark(Protocol):
    """A module of this package (see there)."""

    NAME: str
    COLUMNS: tuple[str, ...]

    def run(self, quick: bool, **told: Any) -> list[Row]:
        """Measure."""

    def draw(self, rows: list[Row], path: Path) -> None:
        """Draw to a PNG."""


def result(module: Benchmark, rows: list[Row], quick: bool, machine: dict[str, str], seconds: float) -> dict[str, Any]:
    """What goes into the JSON file: the rows and all that one must know about them."""
    return {
        "benchmark": module.NAME,
        "quick": quick,
        "machine": machine,
        "seconds": round(seconds, 1),
        "data": _distinct(rows, "data"),
        "dtype": _distinct(rows, "precision"),
        "repeats": _distinct(rows, "repeats"),
        "targets": [vars(target) for target in targets(module, rows)],
        "rows": rows,
    }


def write_json(content: dict[str, Any], path: Path) -> None:
    """Rows one a line, so that two results can be compared line by line; NaN and infinity as null."""
    content = dict(content)
    rows = ",\n".join("  " + json.dumps(_finite(row), allow_nan=False) for row in content.pop("rows"))
    head = json.dumps(_finite(content), indent=1, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{head.removesuffix("}").rstrip()},\n "rows": [\n{rows}\n ]\n}}\n')


def targets(module: Benchmark, rows: list[Row]) -> list[Target]:
    """What was promised, beside what these rows say."""
    return list(module.targets(rows)) if hasattr(module, "targets") else []


def rich_table(title: str, columns: Sequence[str], rows: Sequence[Row]) -> RichTable:
    """For a terminal; what is the same in all rows is said once, below."""
    same, differ = split(columns, rows)
    caption = "; ".join(f"{name.replace('_', ' ')}: {value}" for name, value in same.items())
    table = RichTable(title=title, caption=caption, caption_justify="left")
    table.title_style, table.title_justify = "bold", "left"
    for name in differ:
        numeric = any(isinstance(row.get(name), int | float) for row in rows)
        table.add_column(
            name.replace("_", "\n"), justify="right" if numeric else "left", no_wrap=numeric, overflow="fold"
        )
    for row in rows:
        table.add_row(*(text(row.get(name)) for name in differ))
    return table


def tables(module: Benchmark, rows: list[Row]) -> list[Table]:
    """The module's, one for each of its questions; else one of all rows."""
    found: list[Table] = module.tables(rows) if hasattr(module, "tables") else [Table("", module.COLUMNS, rows)]
    return found


def split(columns: Sequence[str], rows: Sequence[Row]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The columns that have one value, with it, and the others; a column without any value is left out."""
    values = {name: {text(row.get(name)) for row in rows} for name in columns}
    same = {name: v.pop() for name, v in values.items() if len(v) == 1 and len(rows) > 1}
    return {name: v for name, v in same.items() if v != "-"}, tuple(name for name in columns if name not in same)


def rich_targets(found: Sequence[Target]) -> RichTable:
    """Pass or fail, for a terminal."""
    table = RichTable(title="targets", title_style="bold", title_justify="left")
    for name in ("", "required", "measured", "met"):
        table.add_column(name)
    for t in found:
        table.add_row(t.name, t.required, t.measured, "[green]yes[/]" if t.met else f"[red]no[/] {t.note}")
    return table


def page(modules: Sequence[Benchmark], results: dict[str, dict[str, Any]], folder: str) -> str:
    """RESULTS.md: targets, then every benchmark with its picture and tables. `folder` holds the pictures."""
    lines = ["# Results", "", "Written by `python -m benchmarks all`; do not edit by hand.", ""]
    if any(content["quick"] for content in results.values()):
        lines += ["**A quick run: smaller networks and fewer repeats than the results that count.**", ""]
    lines += _targets({name: [Target(**t) for t in content["targets"]] for name, content in results.items()})
    for module in modules:
        if content := results.get(module.NAME):
            lines += _section(module, content, folder)
    return "\n".join(lines).rstrip() + "\n"


def _targets(found: dict[str, list[Target]]) -> list[str]:
    everything = [t for targets in found.values() for t in targets]
    if not everything:
        return []
    lines = [f"## Targets: {sum(t.met for t in everything)} of {len(everything)} met", ""]
    cells = [
        (f"[{name}](#{name})", t.name, t.required, t.measured, "yes" if t.met else f"**no** {t.note}".strip())
        for name, targets in found.items()
        for t in targets
    ]
    return [*lines, *markdown(("", "target", "required", "measured", "met"), cells), ""]


def _section(module: Benchmark, content: dict[str, Any], folder: str) -> list[str]:
    rows, machine = content["rows"], content["machine"]
    facts = {name: content[name] for name in ("data", "dtype", "repeats")}
    facts["measured in"] = f"{content['seconds']:.0f} s"
    lines = [f"## {module.NAME}", "", (module.__doc__ or "").strip(), ""]
    lines += [f"![{module.NAME}]({folder}/{module.NAME}.png)", ""]
    lines += ["- " + "; ".join(f"{name}: {value}" for name, value in {**facts, **machine}.items()), ""]
    for table in tables(module, rows):
        same, differ = split(table.columns, table.rows)
        header = tuple(name.replace("_", " ") for name in differ)
        body = [*markdown(header, [[text(row.get(name)) for name in differ] for row in table.rows]), ""]
        said = "; ".join(f"{name.replace('_', ' ')}: {value}" for name, value in same.items())
        lines += [f"### {table.caption}", ""] if table.caption else []
        lines += [*([said, ""] if said else []), *body]
    return lines


def _distinct(rows: Sequence[Row], name: str) -> str:
    return ", ".join(dict.fromkeys(str(row[name]) for row in rows if row.get(name) is not None))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
