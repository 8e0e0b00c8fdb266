"""Runs side by side: one picture of their validation errors, their numbers as JSON, and a table in Markdown.

epjax compare runs/ep runs/bp --out compared.png
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from epjax.runs.markdown import markdown
from epjax.runs.plots import GREY, INK, colours, curve, dress, literal
from epjax.runs.progress import duration
from epjax.runs.records import Run, read


def evaluated(directory: Path) -> Run:
    """The run in a work directory. Raises FileNotFoundError where it has no evaluation."""
    run = read(directory)
    if not run.evaluations:
        raise FileNotFoundError(f"{directory} holds no evaluation (metrics.jsonl)")
    return run


def table(runs: Sequence[Run]) -> str:
    """One row a run: errors after the last epoch, and the time that training took."""
    rows = []
    for run in runs:
        last = run.evaluations[-1]
        errors = (f"{last['val_top1_error']:.2f}%", f"{last['val_top5_error']:.2f}%", f"{last['val_cost']:.3f}")
        rows.append((run.name, f"{last['epoch']:g}", *errors, duration(last["seconds"])))
    return "\n".join(markdown(("", "epochs", "top-1 error", "top-5 error", "cost", "time"), rows, "lrrrrr"))


def draw(runs: Sequence[Run], path: Path) -> None:
    """Validation top-1 error over epochs, and over the minutes that it took."""
    figure = Figure(figsize=(9.6, 4.4), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    for axes, name, over in zip(
        figure.subplots(1, 2, sharey=True), ("epoch", "minutes"), ("epoch", "seconds"), strict=True
    ):
        for run, colour in zip(runs, colours(len(runs)), strict=True):
            curve(axes, run.evaluations, over, "val_top1_error", colour, label=run.name)
        dress(axes)
        axes.set_xlabel(name, color=INK)
        axes.get_legend().remove()
    figure.axes[0].set_ylabel("validation top-1 error (%)")
    figure.suptitle(literal(runs[0].data), x=0.01, ha="left", color=GREY, fontsize=9)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", frameon=False, fontsize=8, labelcolor=INK)
    figure.savefig(path)


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
        workdirs: Work directories of finished runs.
        out: Where the picture goes.
    """
    if not workdirs:
        raise ValueError("workdirs must name at least one work directory, got none")
    runs = [evaluated(directory) for directory in workdirs]
    draw(runs, out)
    store(runs, out.with_suffix(".json"))
    print(f"{runs[0].data}\n\n{table(runs)}")


def main(argv: Sequence[str] | None = None, prog: str = "epjax compare") -> int:
    """The command."""
    try:
        tyro.cli(compare, args=argv, prog=prog)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
