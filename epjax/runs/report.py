"""Runs side by side on one HTML page that needs nothing but itself: differences, errors, curves, speed.

    epjax report runs/ep runs/bp --out report.html

Runs that go on, and runs without an evaluation yet, are shown as far as they have got; runs that differ in their seed
alone stand together, with their mean and spread.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import jinja2
import matplotlib
import tyro
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from epjax.data.source import first_few
from epjax.data.sources.words import readable
from epjax.runs.answer import answer
from epjax.runs.metrics import BITS, ERROR, Line, Measure
from epjax.runs.plots import dress, looks_of, seeds
from epjax.runs.progress import duration
from epjax.runs.records import Run, differences
from epjax.runs.seeds import Group, grouped, is_of_seed, read_all, spread
from epjax.runs.table import shows_top5

HERE = Path(__file__)
NONE = "–"


@dataclass(frozen=True)
class Panel:
    """One picture: a quantity of every run over its epochs, from evaluations (`val_...`) or training lines."""

    title: str
    quantity: str
    top: float | None = None


PANELS = (
    Panel("Validation top-1 error (%)", "val_top1_error"),
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
    names, groups = labels(runs), grouped(runs)
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        HERE.with_suffix(".html").read_text()
    )
    return template.render(
        title=title(groups),
        style=HERE.with_suffix(".css").read_text(),
        data="; ".join(dict.fromkeys(data(group) for group in groups)),
        classes="; ".join(dict.fromkeys(filter(None, map(classes, runs)))),
        several=len(groups) > 1,
        results=results(groups),
        spread=any(len(group.runs) > 1 for group in groups),
        silent=", ".join(name for run, name in zip(runs, names, strict=True) if not run.evaluations),
        gradients=gradients(runs, names),
        advice=[f"{n}: {r.diagnoses[-1]['advice']}" for r, n in zip(runs, names, strict=True) if r.diagnoses],
        unlike=unlike(groups),
        pictures=pictures(groups),
        machines=machines(runs, names),
        alike=alike(runs),
    )


def data(group: Group) -> str:
    """The data of a configuration and the size at which it was run, with its seeds where there are several."""
    first = group.runs[0]
    return first.data if len(group.runs) == 1 else f"{first.setting}, seeds {group.seeds}"


def title(groups: Sequence[Group]) -> str:
    """What is on the page, in a few words."""
    runs = [run for group in groups for run in group.runs]
    if len(runs) == 1:
        return labels(runs)[0]
    if len(groups) == len(runs):
        return f"{len(runs)} runs"
    return f"{len(groups)} configuration{'s' * (len(groups) > 1)}, {len(runs)} runs"


def labels(runs: Sequence[Run]) -> list[str]:
    """The folders' own names, with the one above for a seed's; or their paths where two have the same name."""
    names = [label(run.directory) for run in runs]
    return names if len(set(names)) == len(names) else [str(run.directory) for run in runs]


def label(directory: Path) -> str:
    """The folder's name; of a seed's folder the name of the one that holds it too."""
    place = directory.resolve()
    return f"{place.parent.name} {place.name}" if is_of_seed(place) else place.name


def heading(group: Group) -> str:
    """What a configuration is called: the folder of its run, that of its seeds, or its method."""
    if len(group.runs) == 1:
        return label(group.runs[0].directory)
    above = {run.directory.resolve().parent.name for run in group.runs}
    told = all(is_of_seed(run.directory) for run in group.runs)
    return above.pop() if told and len(above) == 1 else group.name


def classes(run: Run) -> str:
    """How many classes there are, and the first few as people read them; nothing where they are not known."""
    if token := run.model.get("token"):
        return f"{len(run.classes):,} kinds of {token}s"
    names = [readable(name, run.words) for name in run.classes[:4]]
    return f"{len(run.classes):,} classes: {first_few(names)}" if names else ""


def results(groups: Sequence[Group]) -> Table:
    """One row a run: how far it is, its best and last errors, its speed. Seeds stand below their mean and spread."""
    columns = {name: one for name, one in COLUMNS.items() if name not in _of_none(groups)}
    rows = []
    for group, look in zip(groups, looks_of(groups), strict=True):
        alone = len(group.runs) == 1
        if not alone:
            cells = [column.of_seeds(group) for column in columns.values()]
            rows.append(Row(heading(group), cells, look.colour, group.name, bold=True))
        for run in group.runs:
            name, small = (heading(group), group.name) if alone else (f"seed {run.config['seed']}", "")
            cells = [column.of_run(run) for column in columns.values()]
            rows.append(Row(name, cells, look.colour if alone else "", small, bold=alone))
    return Table(tuple(columns), rows)


class Column(NamedTuple):
    """What a column of the results says of a run, and of the seeds of a configuration."""

    of_run: Callable[[Run], str]
    of_seeds: Callable[[Group], str] = lambda group: NONE


def _last_of(quantity: str, form: str, unit: str = "") -> Column:
    return Column(
        lambda run: _number(_last(run.evaluations), quantity, form, unit),
        lambda group: group.told(quantity, form, unit),
    )


def _best_of(judged: Measure) -> Column:
    """Of the runs that are judged by it."""

    def of_run(run: Run) -> str:
        return judged.told(run.best) if run.best and run.measure == judged else NONE

    def of_seeds(group: Group) -> str:
        found = [judged.of(run.best) for run in group.evaluated if run.best and run.measure == judged]
        return spread(found, judged.form, judged.unit)

    return Column(of_run, of_seeds)


TOP5 = "last top-5 error"
COLUMNS = {
    "epoch": Column(
        lambda run: _progress(run), lambda group: f"{max((line['epoch'] for line in group.last), default=0):g}"
    ),
    "best top-1 error": _best_of(ERROR),
    "best bits per token": _best_of(BITS),
    "at epoch": Column(lambda run: _number(run.best, "epoch", "g")),
    "last top-1 error": _last_of("val_top1_error", ".2f", "%"),
    TOP5: _last_of("val_top5_error", ".2f", "%"),
    "last cost": _last_of("val_cost", ".4f"),
    "last bits per token": _last_of("val_bits", ".3f"),
    "time": Column(lambda run: duration(run.lines[-1]["seconds"]) if run.lines else NONE),
    "images/s": Column(lambda run: _median(run.training, "images_per_second", ".4g")),
    "waiting": Column(lambda run: _median(run.training, "waiting", ".0%")),
}


def _of_none(groups: Sequence[Group]) -> set[str]:
    """Columns that say nothing of any run."""
    judged = {run.measure for group in groups for run in group.runs if run.evaluations} or {ERROR}
    without = {ERROR: {"best top-1 error"}, BITS: {"best bits per token", "last bits per token"}}
    left_out = set().union(*(names for one, names in without.items() if one not in judged))
    return left_out if _show_top5(groups) else left_out | {TOP5}


def _show_top5(groups: Sequence[Group]) -> bool:
    return any(shows_top5(run.config["classes"]) for group in groups for run in group.runs)


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
        Row(name, [show(run) for show in columns.values()], bold=True)
        for run, name in zip(runs, names, strict=True)
        if run.diagnoses
    ]
    return Table(tuple(columns), rows)


def unlike(groups: Sequence[Group]) -> Table:
    """The options in which the configurations differ, and their seeds."""
    found = differences([group.runs[0] for group in groups])
    rows = [Row(name, list(map(_value, values))) for name, values in found.items() if name not in ("workdir", "seed")]
    if len({group.seeds for group in groups}) > 1:
        rows.append(Row("seed", [group.seeds for group in groups]))
    return Table([heading(group) for group in groups], rows, [look.colour for look in looks_of(groups)])


def alike(runs: Sequence[Run]) -> Table:
    """The options that all runs share, folded away."""
    different = differences(runs)
    return Table(("value",), [Row(n, [_value(v)]) for n, v in runs[0].config.items() if n not in different])


def machines(runs: Sequence[Run], names: Sequence[str]) -> Table:
    """What each run was measured on, where that is known."""
    facts = dict.fromkeys(fact for run in runs for fact in run.machine)
    rows = [Row(fact, [run.machine.get(fact, NONE) for run in runs]) for fact in facts]
    return Table(names, rows)


def pictures(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """Title and SVG of every panel for which some run has numbers; all of them over the same epochs."""
    lines = [line for group in groups for run in group.runs for line in run.lines]
    until = max((line["epoch"] for line in lines), default=1.0)
    known = [panel for panel in PANELS if panel.quantity != "val_top5_error" or _show_top5(groups)]
    shown = [panel for panel in known if any(line.get(panel.quantity) is not None for line in lines)]
    return [(panel.title, draw(panel, groups, until)) for panel in shown]


def draw(panel: Panel, groups: Sequence[Group], until: float) -> str:
    """One panel as an SVG element, up to the epoch `until`."""
    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": panel.title}):
        figure = Figure(figsize=(4.8, 3.0), layout="constrained", facecolor="none")
        canvas, axes = FigureCanvasSVG(figure), figure.subplots()
        axes.set_facecolor("none")
        for group, look in zip(groups, looks_of(groups), strict=True):
            seeds(axes, group, "epoch", panel.quantity, look)
        dress(axes)
        axes.set_xlim(0, 1.02 * until)
        axes.set_ylim(0, panel.top)
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
        workdirs: Work directories of runs, finished or not; one made by --seeds stands for the runs in it.
        out: Where the page goes.
    """
    if not workdirs:
        raise ValueError("workdirs must name at least one work directory, got none")
    runs = read_all(workdirs)
    text = page(runs)
    partial = out.with_name(out.name + ".partial")
    partial.write_text(text)
    partial.replace(out)
    print(f"{len(runs)} runs in {out}" if len(runs) > 1 else f"{workdirs[0]} in {out}")


def main(argv: Sequence[str] | None = None, prog: str = "epjax report") -> int:
    """The command."""
    return answer(report, argv, prog)
