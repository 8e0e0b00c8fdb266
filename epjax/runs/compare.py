"""Runs side by side: one picture of their validation errors, their numbers as JSON, and a table in Markdown.

epjax compare runs/ep runs/bp --out compared.png

Runs that differ in their seed alone are one line with a band, and one row.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Annotated

import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from epjax.runs.algorithm import ALGORITHMS
from epjax.runs.answer import answer
from epjax.runs.markdown import markdown
from epjax.runs.metrics import BITS, ERROR
from epjax.runs.plots import dress, literal, looks_of, seeds
from epjax.runs.progress import duration
from epjax.runs.records import Run
from epjax.runs.seeds import Group, grouped, read_all
from epjax.runs.table import shows_top5
from epjax.style import GREY, INK

TITLE = 90
"""Letters of a picture's title, at most."""


def evaluated(directories: Sequence[Path]) -> list[Run]:
    """The runs in work directories, those of all seeds. Raises FileNotFoundError where one has no evaluation."""
    runs = read_all(directories)
    for run in runs:
        if not run.evaluations:
            raise FileNotFoundError(f"{run.directory} holds no evaluation (metrics.jsonl)")
    return runs


def table(groups: Sequence[Group]) -> str:
    """One row a configuration: errors after the last epoch that all its seeds have seen (mean and standard deviation),
    and the median time of a run."""
    first = groups[0].runs[0]
    five, bits = shows_top5(first.config["classes"]), first.measure == BITS
    rows = []
    for group in groups:
        errors = [group.told("val_top1_error", ".2f", "%"), group.told("val_top5_error", ".2f", "%")]
        time = median(run.evaluations[-1]["seconds"] for run in group.runs)
        epoch = max(line["epoch"] for line in group.last)
        costs = [group.told("val_cost", ".3f"), *(group.told(BITS.quantity, BITS.form) for _ in range(bits))]
        numbers = [group.seeds, f"{epoch:g}", *errors[: 1 + five], *costs]
        rows.append((group.name, *numbers, duration(time)))
    columns = ("", "seeds", "epochs", "top-1 error", *("top-5 error",) * five, "cost", *(BITS.words,) * bits, "time")
    return "\n".join(markdown(columns, rows, "l" + "r" * (len(columns) - 1)))


def headline(groups: Sequence[Group]) -> str:
    """What was found, in a line: the last error of each."""
    kinds, judged = [group.algorithm for group in groups], groups[0].runs[0].measure
    form = ".1f" if judged == ERROR else judged.form
    found = []
    for kind, group in zip(kinds, groups, strict=True):
        name = ALGORITHMS[kind].label if kinds.count(kind) == 1 else group.name
        found.append(f"{name} {group.told(judged.quantity, form, judged.unit)}")
    if len("; ".join(found)) > TITLE:
        means = sorted(mean(judged.of(line) for line in group.last) for group in groups)
        extremes = " to ".join(f"{value:{form}}{judged.unit}" for value in (means[0], means[-1]))
        return f"{len(groups)} configurations, last {judged.words} from {extremes}"
    return f"Last {judged.words}: " + "; ".join(found)


def draw(groups: Sequence[Group], path: Path) -> None:
    """Validation top-1 error and cost over epochs, of texts bits in its place: a thin line a seed, their mean, a band
    of the standard deviation."""
    figure = Figure(figsize=(9.6, 4.4), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = {"val_top1_error": "validation top-1 error (%)", "val_cost": "validation cost"}
    if groups[0].runs[0].measure == BITS:
        panels = {BITS.quantity: f"validation {BITS.words}", "val_top1_error": panels["val_top1_error"]}
    for axes, (quantity, words) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for group, look in zip(groups, looks_of(groups), strict=True):
            seeds(axes, group, "epoch", quantity, look, label=group.name)
        dress(axes)
        axes.set_ylabel(words, color=INK)
        if axes.get_legend():
            axes.get_legend().remove()
    figure.suptitle(literal(headline(groups)), x=0.01, ha="left", color=INK, fontsize=11, fontweight="bold")
    figure.axes[0].set_title(literal(_data(groups)), loc="left", color=GREY, fontsize=8)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", frameon=False, fontsize=8, labelcolor=INK)
    figure.savefig(path)


def _data(groups: Sequence[Group]) -> str:
    seeds = sorted({run.config["seed"] for group in groups for run in group.runs})
    return f"{groups[0].runs[0].setting}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def store(runs: Sequence[Run], path: Path) -> None:
    """What the picture shows, with every option that it depends on and no folder of this machine."""
    kept = [
        {
            "name": run.name,
            "config": {k: v for k, v in run.config.items() if k not in ("workdir", "data")},
            "evaluations": run.evaluations,
        }
        for run in runs
    ]
    path.write_text(json.dumps(kept, indent=1) + "\n")


def compare(
    workdirs: tyro.conf.Positional[tuple[Path, ...]], out: Annotated[Path, tyro.conf.arg(metavar="PNG")]
) -> None:
    """Draw runs in one picture, write their numbers beside it as JSON, and print their table.

    Args:
        workdirs: Work directories of finished runs; one made by --seeds stands for the runs in it.
        out: Where the picture goes.
    """
    if not workdirs:
        raise ValueError("workdirs must name at least one work directory, got none")
    runs = evaluated(workdirs)
    groups = grouped(runs)
    draw(groups, out)
    store(runs, out.with_suffix(".json"))
    print(f"{_data(groups)}\n\n{table(groups)}")


def main(argv: Sequence[str] | None = None, prog: str = "epjax compare") -> int:
    """The command."""
    return answer(compare, argv, prog)
