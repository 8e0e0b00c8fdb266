"""Runs side by side on one HTML page that needs nothing but itself: differences, errors, curves, speed.

    epjax report runs/ep runs/bp --out report.html

Runs that go on, and runs without an evaluation yet, are shown as far as they have got.
"""

import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import matplotlib
import tyro
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from epjax.runs.command import sentence
from epjax.runs.metrics import Line
from epjax.runs.plots import colours, curve, dress
from epjax.runs.progress import duration
from epjax.runs.records import Run, differences, read

STYLE = Path(__file__).with_suffix(".css")
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
    Panel("Training top-1 error (%)", "top1_error"),
    Panel("Training cost", "cost"),
    Panel("Learning rate", "learning_rate"),
    Panel("Training images per second", "images_per_second"),
    Panel("Share of time spent waiting for data", "waiting", top=1.0),
    Panel("EP gradient: cosine with backpropagation's", "ep_cosine", top=1.02),
    Panel("EP gradient: cosine of the worst layer", "ep_worst_cosine", top=1.02),
)


def page(runs: Sequence[Run]) -> str:
    """The whole page."""
    names = labels(runs)
    parts = [results(runs, names), gradients(runs, names), unlike(runs, names)]
    parts += [pictures(runs), machines(runs, names), alike(runs)]
    title = escape(f"{len(runs)} runs" if len(runs) > 1 else names[0])
    data = "; ".join(escape(text) for text in dict.fromkeys(run.data for run in runs))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{STYLE.read_text()}</style>\n</head>\n<body>\n"
        f"<h1>{title}</h1>\n<p class=quiet>{data}</p>\n{''.join(parts)}</body>\n</html>\n"
    )


def labels(runs: Sequence[Run]) -> list[str]:
    """The folders' own names, or their paths where two have the same name."""
    names = [run.directory.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.directory) for run in runs]


def results(runs: Sequence[Run], names: Sequence[str]) -> str:
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
        f"{dot} <b>{escape(name)}</b><br><small>{escape(run.name)}</small>"
        for run, name, dot in zip(runs, names, _dots(runs), strict=True)
    ]
    cells = [[escape(show(run)) for show in columns.values()] for run in runs]
    silent = [name for run, name in zip(runs, names, strict=True) if not run.evaluations]
    note = f"<p class=quiet>Not evaluated yet: {escape(', '.join(silent))}.</p>\n" if silent else ""
    speed = "<p class=quiet>Images per second and the share of time spent waiting for data: medians of the run.</p>\n"
    return f"<h2>Results</h2>\n{_table(tuple(columns), rows, cells)}{note}{speed}"


def gradients(runs: Sequence[Run], names: Sequence[str]) -> str:
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
    seen = [(run, name, dot) for run, name, dot in zip(runs, names, _dots(runs), strict=True) if run.diagnoses]
    if not seen:
        return ""
    rows = [f"{dot} <b>{escape(name)}</b>" for _, name, dot in seen]
    cells = [[escape(show(run)) for show in columns.values()] for run, _, _ in seen]
    advice = "".join(
        f"<p class=quiet>{escape(name)}: {escape(run.diagnoses[-1]['advice'])}.</p>\n" for run, name, _ in seen
    )
    return f"<h2>The EP gradient beside backpropagation's</h2>\n{_table(tuple(columns), rows, cells)}{advice}"


def unlike(runs: Sequence[Run], names: Sequence[str]) -> str:
    """The options in which the runs differ."""
    found = {name: values for name, values in differences(runs).items() if name != "workdir"}
    if len(runs) < 2 or not found:
        return "" if len(runs) < 2 else "<h2>Configuration</h2>\n<p>All options are the same.</p>\n"
    header = [f"{dot} {escape(name)}" for name, dot in zip(names, _dots(runs), strict=True)]
    cells = [[escape(_value(value)) for value in values] for values in found.values()]
    return f"<h2>What differs</h2>\n{_table(header, [escape(name) for name in found], cells)}"


def alike(runs: Sequence[Run]) -> str:
    """The options that all runs share, folded away."""
    same = {name: value for name, value in runs[0].config.items() if name not in differences(runs)}
    rows = [escape(name) for name in same]
    cells = [[escape(_value(value))] for value in same.values()]
    title = "Options" if len(runs) == 1 else "Options that all runs share"
    return f"<details>\n<summary>{title}</summary>\n{_table(('value',), rows, cells)}</details>\n"


def machines(runs: Sequence[Run], names: Sequence[str]) -> str:
    """What each run was measured on, where that is known."""
    facts = dict.fromkeys(fact for run in runs for fact in run.machine)
    if not facts:
        return ""
    header = [f"{dot} {escape(name)}" for name, dot in zip(names, _dots(runs), strict=True)]
    cells = [[escape(run.machine.get(fact, NONE)) for run in runs] for fact in facts]
    return (
        f"<details>\n<summary>Machines</summary>\n{_table(header, [escape(fact) for fact in facts], cells)}</details>\n"
    )


def pictures(runs: Sequence[Run]) -> str:
    """Every panel for which some run has numbers, on a grid that has as many columns as fit."""
    drawn = [
        f"<figure>\n<figcaption>{escape(panel.title)}</figcaption>\n{draw(panel, runs)}</figure>\n"
        for panel in PANELS
        if any(line.get(panel.quantity) is not None for run in runs for line in run.lines)
    ]
    return f"<h2>Curves</h2>\n<div class=grid>\n{''.join(drawn)}</div>\n" if drawn else ""


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


def _table(columns: Sequence[str], rows: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    header = "".join(f"<th>{name}</th>" for name in columns)
    body = "".join(
        f"<tr><th>{row}</th>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>\n"
        for row, line in zip(rows, cells, strict=True)
    )
    return f"<div class=wide><table>\n<tr><th></th>{header}</tr>\n{body}</table></div>\n"


def _dots(runs: Sequence[Run]) -> list[str]:
    return [f'<i class=dot style="background:{colour}"></i>' for colour in colours(len(runs))]


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
