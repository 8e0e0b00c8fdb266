"""Runs that differ in nothing but their seed, as one: mean and spread, under a name that says what they are."""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.table import Table

from epjax.runs.config import Config
from epjax.runs.metrics import BITS, Line
from epjax.runs.option import NUMBERS
from epjax.runs.records import Run, differences, read
from epjax.runs.table import shows_top5

FOLDER = "seed-{}"
"""What a seed's folder is called in the work directory of several."""
LENGTH = "max_steps"
"""Touches no number of a run, but how far it goes."""


def folder(directory: Path, seed: int) -> Path:
    """The work directory of one seed."""
    return directory / FOLDER.format(seed)


def is_of_seed(directory: Path) -> bool:
    """Whether it is named as `folder` names one."""
    return re.fullmatch(FOLDER.format(r"\d+"), directory.name) is not None


def read_all(directories: Sequence[Path]) -> list[Run]:
    """The runs in work directories; one that holds seeds holds as many runs.

    Raises FileNotFoundError where there is none, ValueError where a configuration cannot be read.
    """
    return [read(one) for directory in directories for one in _work_directories(directory)]


def _work_directories(directory: Path) -> list[Path]:
    if (directory / "config.json").is_file() or not directory.is_dir():
        return [directory]
    numbered = sorted(filter(is_of_seed, directory.iterdir()), key=lambda one: int(one.name.rpartition("-")[2]))
    return [one for one in numbered if (one / "config.json").is_file()] or [directory]


@dataclass(frozen=True)
class Group:
    """Runs of one configuration, and the name that tells it from the others'."""

    runs: tuple[Run, ...]
    name: str

    @property
    def algorithm(self) -> str:
        """That of its runs."""
        return str(self.runs[0].config["algorithm"])

    @property
    def evaluated(self) -> tuple[Run, ...]:
        """Those that have an evaluation."""
        return tuple(run for run in self.runs if run.evaluations)

    @property
    def last(self) -> list[Line]:
        """Each evaluated run's line at the last epoch that all of them have evaluated, or its last where there is
        none."""
        epochs = [{line["epoch"]: line for line in run.evaluations} for run in self.evaluated]
        shared = set.intersection(*map(set, epochs)) if epochs else set()
        return [lines[max(shared or lines)] for lines in epochs]

    def told(self, quantity: str, form: str, unit: str = "") -> str:
        """The mean over the seeds with the sample standard deviation behind it; one run's number alone."""
        return spread([line[quantity] for line in self.last], form, unit)

    @property
    def seeds(self) -> str:
        """Which seeds, in few words: 0 to 4, or 0, 2."""
        found = sorted(run.config["seed"] for run in self.runs)
        whole = len(found) > 2 and found == list(range(found[0], found[-1] + 1))
        return f"{found[0]} to {found[-1]}" if whole else ", ".join(map(str, found))


def spread(values: Sequence[float], form: str, unit: str = "") -> str:
    """`40.1% ± 0.3`; of one value itself, of none a dash."""
    if not values:
        return "–"
    centre = format(mean(values), form) + unit
    return centre if len(values) == 1 else f"{centre} ± {stdev(values):{form}}"


def grouped(runs: Sequence[Run]) -> list[Group]:
    """The runs by configuration, in the order of their first."""
    kept: dict[str, list[Run]] = {}
    for run in runs:
        kept.setdefault(repr(sorted(_configuration(run).items())), []).append(run)
    groups = [tuple(found) for found in kept.values()]
    return [Group(found, name) for found, name in zip(groups, _names([g[0] for g in groups]), strict=True)]


def _names(firsts: Sequence[Run]) -> list[str]:
    """The method; where others have the same, the options too in which they differ."""
    methods = [run.name for run in firsts]
    names = []
    for run, name in zip(firsts, methods, strict=True):
        alike = [other for other, its in zip(firsts, methods, strict=True) if its == name]
        unlike = [option for option in differences(alike) if option in _configuration(run)]
        names.append(", ".join([name, *(_told(option, run.config.get(option)) for option in unlike)]))
    return names


def _told(option: str, value: Any) -> str:
    words = " ".join(map(str, value)) if isinstance(value, list) else f"{value:g}" if type(value) is float else value
    return f"{option.replace('_', ' ')} {words}"


def _configuration(run: Run) -> dict[str, Any]:
    """What its numbers depend on but for the seed, and how far it goes."""
    left_out = {"seed", "data", *_of_no_number()}
    return {name: value for name, value in run.config.items() if name not in left_out}


def _of_no_number() -> set[str]:
    groups = [one.type for one in dataclasses.fields(Config)]
    known = [field for group in groups for field in dataclasses.fields(group)]  # type: ignore[arg-type]
    return {field.name for field in known if not field.metadata.get(NUMBERS, True)} - {LENGTH}


def table(group: Group) -> Table:
    """The last evaluation of each seed, and their mean and sample standard deviation."""
    first = group.runs[0]
    count = f"{len(group.runs)} seed{'s' * (len(group.runs) > 1)}"
    shown = Table(title=count, caption=group.name, title_style="bold", caption_justify="left", title_justify="left")
    five = {"top-5 error": ("val_top5_error", ".2f", "%")} if shows_top5(first.config["classes"]) else {}
    columns = {"top-1 error": ("val_top1_error", ".2f", "%"), **five, "cost": ("val_cost", ".4f", "")}
    if first.measure == BITS:
        columns |= {"bits": (BITS.quantity, BITS.form, BITS.unit)}
    for name in ("seed", "epoch", *columns):
        shown.add_column(name, justify="right" if name != "seed" else "left")
    for run, line in zip(group.evaluated, group.last, strict=True):
        numbers = [f"{line[quantity]:{form}}{unit}" for quantity, form, unit in columns.values()]
        shown.add_row(str(run.config["seed"]), f"{line['epoch']:g}", *numbers)
    shown.add_section()
    shown.add_row("mean ± sd", "", *(group.told(*column) for column in columns.values()))
    return shown


def band(runs: Sequence[Run], over: str, quantity: str) -> list[tuple[float, float, float]]:
    """(x, mean, standard deviation) of a quantity wherever all runs have one."""
    curves = [{line[over]: line[quantity] for line in run.lines if line.get(quantity) is not None} for run in runs]
    shared = sorted(set.intersection(*map(set, curves))) if curves else []
    values = [[curve[x] for curve in curves] for x in shared]
    return [(x, mean(found), stdev(found)) for x, found in zip(shared, values, strict=True)] if len(runs) > 1 else []
