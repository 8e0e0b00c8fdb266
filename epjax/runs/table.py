"""The table at the end of a run."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from epjax.runs.algorithm import ALGORITHMS
from epjax.runs.config import Gradient
from epjax.runs.metrics import Line, best, evaluations
from epjax.runs.progress import duration


def method(options: Gradient) -> str:
    """The gradient estimator in a few words, with all that its numbers depend on."""
    if options.algorithm != "ep":
        return ALGORITHMS[options.algorithm].describe(options)
    count = {"sweep": f"S = {options.sweeps}"}.get(options.traversal, f"K = {options.iterations}")
    scheme = options.scheme if options.points == 1 else f"{options.scheme} ({options.points} points)"
    how = options.traversal if options.traversal == "relax" else f"{options.traversal} {options.update}"
    return (
        f"EP {scheme}, {how}, beta = {options.beta:g}, {count},"
        f" {options.errors} errors, {options.cost}, {options.precision}"
    )


def shows_top5(classes: int) -> bool:
    """Whether the five likeliest say more than the likeliest: of ten classes half are among them by chance."""
    return classes > 10


def summary(lines: Sequence[Line], title: str, method: str, classes: int, examples: str = "images") -> Table:
    """The best and the last evaluation, how they came about, and the time it took; top-5 where it says something."""
    val = evaluations(list(lines))
    first, last = best(lines), val[-1]
    assert first is not None
    caption = f"{method}; {duration(last['seconds'])} in all"
    table = Table(title=title, caption=caption, title_style="bold", caption_justify="left", title_justify="left")
    five = ("top-5 error",) if shows_top5(classes) else ()
    bits = ("bits",) if "val_bits" in last else ()
    for name in ("", "epoch", "top-1 error", *five, "cost", *bits, examples):
        table.add_column(name, justify="right" if name else "left")
    for name, line in (("best", first), ("last", last)):
        errors = [f"{line['val_top1_error']:.2f}%", *(f"{line['val_top5_error']:.2f}%" for _ in five)]
        costs = [f"{line['val_cost']:.4f}", *(f"{line['val_bits']:.3f}" for _ in bits)]
        table.add_row(name, f"{line['epoch']:g}", *errors, *costs, f"{line['val_images']:,}")
    return table


def files(directory: Path) -> str:
    """Where the results lie."""
    return f"in {directory}: metrics.jsonl, learning_curve.png, tensorboard/, config.json, model.json, checkpoints/"
