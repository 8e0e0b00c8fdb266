"""Runs side by side on one HTML page that needs nothing but itself: differences, errors, curves, speed.

    epjax report runs/ep runs/bp --out report.html

Runs that go on, and runs without an evaluation yet, are shown as far as they have got.
"""

import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import jinja2
import matplotlib
import tyro
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from epjax.data.source import first_few
from epjax.data.sources.words import readable
from epjax.runs.command import sentence
from epjax.runs.metrics import Line
from epjax.runs.plots import colours, curve, dress
from epjax.runs.progress import duration
from epjax.runs.records import Run, differences, read

HERE = Path(__file__)
NONE = "–"


@dataclass(frozen=True)
class Panel:
    """One picture: a quantity of every run, from its evaluations (`val_...`) or its training lines."""

    title: str
    quantity: str
    over: str = "epoch"
    top: float | None = None


PANELS = (
    Panel("Validation top-1 error (%)", "val_top1_error"),
    Panel("Validation top-1 error (%) over minutes", "val_top1_error", over="seconds"),
    Panel("Validation top-5 error (%)", "val_top5_error"),
    Panel("Validation cost", "val_cost"),
    Panel("Validation bits per token", "val_bits"),
    Panel("Training top-1 error (%)", "top1_error"),
    Panel("Training cost", "cost"),
    Panel("Training bits per token", "bits"),
    Panel("Learning rate", "learning_rate"),
    Panel("Training images per second", "images_per_second"),
    Panel("Share of time spent waiting for data", "waiting", top=1.0),
    Panel("EP gradient: cosine with backpropagation's", "ep_cosine", top=1.02),
    Panel("EP gradient: cosine of the worst layer", "ep_worst_cosine", top=1.02),
)


@dataclass(frozen=True)
class Row:
    """One row of a table; `small` stands below its name, `colour` is that of its run."""

    name: str
    cells: Sequence[str]
    colour: str = ""
    small: str = ""
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """Columns, in the colours of runs where each is one, and rows."""

    columns: Sequence[str]
    rows: Sequence[Row]
    column_colours: Sequence[str] = field(default_factory=tuple)


def page(runs: Sequence[Run]) -> str:
    """The whole page."""
    names = labels(runs)
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        HERE.with_suffix(".html").read_text()
    )
    return template.render(
        title=f"{len(runs)} runs" if len(runs) > 1 else names[0],
        style=HERE.with_suffix(".css").read_text(),
        data="; ".join(dict.fromkeys(run.data for run in runs)),
        classes="; ".join(dict.fromkeys(filter(None, map(classes, runs)))),
        several=len(runs) > 1,
        results=results(runs, names),
        silent=", ".join(name for run, name in zip(runs, names, strict=True) if not run.evaluations),
        gradients=gradients(runs, names),
        advice=[f"{n}: {r.diagnoses[-1]['advice']}" for r, n in zip(runs, names, strict=True) if r.diagnoses],
        unlike=unlike(runs, names),
        pictures=pictures(runs),
        machines=machines(runs, names),
        alike=alike(runs),
    )


def labels(runs: Sequence[Run]) -> list[str]:
    """The folders' own names, or their paths where two have the same name."""
    names = [run.directory.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.directory) for run in runs]


def classes(run: Run) -> str:
    """How many classes there are, and the first few as people read them; nothing where they are not known."""
    if token := run.model.get("token"):
        return f"{len(run.classes):,} kinds of {token}s"
    names = [readable(name, run.words) for name in run.classes[:4]]
    return f"{len(run.classes):,} classes: {first_few(names)}" if names else ""


def results(runs: Sequence[Run], names: Sequence[str]) -> Table:
    """One row a run: how far it is, its best and last errors, its speed."""
    columns: dict[str, Callable[[Run], str]] = {
        "epoch": _progress,
        "best top-1 error": lambda run: _number(run.best, "val_top1_error", ".2f", "%"),
        "at epoch": lambda run: _number(run.best, "epoch", "g"),
        "last top-1 error": lambda run: _number(_last(run.evaluations), "val_top1_error", ".2f", "%"),
        "last top-5 error": lambda run: _number(_last(run.evaluations), "val_top5_error", ".2f", "%"),
        "last cost": lambda run: _number(_last(run.evaluations), "val_cost", ".4f"),
        "time": lambda run: duration(run.lines[-1]["seconds"]) if run.lines else NONE,
        "images/s": lambda run: _median(run.training, "images_per_second", ".4g"),
        "waiting": lambda run: _median(run.training, "waiting", ".0%"),
    }
    rows = [
        Row(name, [show(run) for show in columns.values()], colour, run.name, bold=True)
        for run, name, colour in zip(runs, names, colours(len(runs)), strict=True)
    ]
    return Table(tuple(columns), rows)


def gradients(runs: Sequence[Run], names: Sequence[str]) -> Table:
    """What the diagnoses of the EP gradient found, where there are some: the last of each run."""
    columns: dict[str, Callable[[Run], str]] = {
        "at epoch": lambda run: _number(_last(run.diagnoses), "epoch", "g"),
        "verdict": lambda run: run.diagnoses[-1]["verdict"],
        "cosine": lambda run: _number(_last(run.diagnoses), "ep_cosine", ".4f"),
        "worst layer": lambda run: _number(_last(run.diagnoses), "ep_worst_layer", "d"),
        "its cosine": lambda run: _number(_last(run.diagnoses), "ep_worst_cosine", ".4f"),
        "norm ratio": lambda run: _number(_last(run.diagnoses), "ep_norm_ratio", ".3f"),
        "residual": lambda run: _number(_last(run.diagnoses), "ep_residual", ".2g"),
        "switches crossed": lambda run: _number(_last(run.diagnoses), "ep_crossings", ".2%"),
        "not good": lambda run: f"{sum(d['verdict'] != 'good' for d in run.diagnoses)} of {len(run.diagnoses)}",
    }
    rows = [
        Row(name, [show(run) for show in columns.values()], colour, bold=True)
        for run, name, colour in zip(runs, names, colours(len(runs)), strict=True)
        if run.diagnoses
    ]
    return Table(tuple(columns), rows)


def unlike(runs: Sequence[Run], names: Sequence[str]) -> Table:
    """The options in which the runs differ."""
    found = {name: values for name, values in differences(runs).items() if name != "workdir"}
    rows = [Row(name, [_value(value) for value in values]) for name, values in found.items()]
    return Table(names, rows, colours(len(runs)))


def alike(runs: Sequence[Run]) -> Table:
    """The options that all runs share, folded away."""
    different = differences(runs)
    return Table(("value",), [Row(n, [_value(v)]) for n, v in runs[0].config.items() if n not in different])


def machines(runs: Sequence[Run], names: Sequence[str]) -> Table:
    """What each run was measured on, where that is known."""
    facts = dict.fromkeys(fact for run in runs for fact in run.machine)
    rows = [Row(fact, [run.machine.get(fact, NONE) for run in runs]) for fact in facts]
    return Table(names, rows, colours(len(runs)))


def pictures(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Title and SVG of every panel for which some run has numbers."""
    return [
        (panel.title, draw(panel, runs))
        for panel in PANELS
        if any(line.get(panel.quantity) is not None for run in runs for line in run.lines)
    ]


def draw(panel: Panel, runs: Sequence[Run]) -> str:
    """One panel as an SVG element."""
    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": panel.title}):
        figure = Figure(figsize=(4.8, 3.0), layout="constrained")
        canvas, axes = FigureCanvasSVG(figure), figure.subplots()
        for run, colour in zip(runs, colours(len(runs)), strict=True):
            curve(axes, run.lines, panel.over, panel.quantity, colour)
        dress(axes)
        axes.set_ylim(0, panel.top)
        axes.set_xlabel({"seconds": "minutes"}.get(panel.over, panel.over))
        file = io.StringIO()
        canvas.print_svg(file, metadata={"Date": None})
    svg = file.getvalue()
    return svg[svg.index("<svg") :]  # without the prolog of a file of its own


def _progress(run: Run) -> str:
    return f"{round(run.lines[-1]['epoch'], 2) if run.lines else 0:g} of {run.config['epochs']}"


def _last(lines: Sequence[Line]) -> Line | None:
    return lines[-1] if lines else None


def _number(line: Line | None, name: str, form: str, unit: str = "") -> str:
    return NONE if line is None or line[name] is None else format(line[name], form) + unit


def _median(lines: Sequence[Line], name: str, form: str) -> str:
    found = [line[name] for line in lines if line.get(name) is not None]
    return format(median(found), form) if found else NONE


def _value(value: Any) -> str:
    return NONE if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def report(
    workdirs: tyro.conf.Positional[tuple[Path, ...]],
    out: Annotated[Path, tyro.conf.arg(metavar="HTML")] = Path("report.html"),
) -> None:
    """Show runs side by side on one HTML page.

    Args:
        workdirs: Work directories of runs, finished or not.
        out: Where the page goes.
    """
    if not workdirs:
        raise ValueError("workdirs must name at least one work directory, got none")
    text = page([read(directory) for directory in workdirs])
    partial = out.with_name(out.name + ".partial")
    partial.write_text(text)
    partial.replace(out)
    print(f"{len(workdirs)} runs in {out}" if len(workdirs) > 1 else f"{workdirs[0]} in {out}")


def main(argv: Sequence[str] | None = None, prog: str = "epjax report") -> int:
    """The command."""
    try:
        tyro.cli(report, args=argv, prog=prog)
    except (ValueError, OSError) as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 1
    return 0
