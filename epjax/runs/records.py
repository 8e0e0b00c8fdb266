"""Finished and unfinished runs, read from their work directories."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epjax.data.sources.words import find_words
from epjax.runs.config import Gradient
from epjax.runs.metrics import Line, Measure, best, diagnoses, evaluations, measure, read_lines, training
from epjax.runs.table import method


@dataclass(frozen=True)
class Run:
    """A work directory's configuration, all lines of its metrics.jsonl, and where they are known what it ran on
    (machine.json) and what its network takes and gives (model.json)."""

    directory: Path
    config: dict[str, Any]
    lines: list[Line]
    machine: dict[str, str]
    model: dict[str, Any]

    @property
    def name(self) -> str:
        """The estimator in a few words."""
        known = Gradient.__dataclass_fields__.keys() & self.config.keys()
        return method(Gradient(**{option: self.config[option] for option in known}))

    @property
    def data(self) -> str:
        """The data and the size at which it was run, with its seed."""
        return f"{self.setting}, seed {self.config['seed']}"

    @property
    def setting(self) -> str:
        """The data and the size at which it was run, whatever the seed."""
        c = self.config
        if "context" in c:
            shape = f"{c['train_images']:,} windows of {c['context']} {c['tokens']}"
            return f"{c['data_name']}, {shape}, batch {c['batch_size']}"
        pixels = c.get("image_size", 32)
        width = f"width {c['width']:g}, " if "width" in c else ""  # a user's own network may have none
        size = f"{pixels}x{pixels}, {width}batch {c['batch_size']}"
        return f"{c['data_name']}, {c['train_images']:,} images, {size}"

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, where they are known."""
        return tuple(self.model.get("class_names", ()))

    @property
    def words(self) -> Mapping[str, str]:
        """What those that are WordNet IDs mean, as far as the run knew, or is known here."""
        return {**find_words(self.classes, ()), **self.model.get("words", {})}

    @property
    def training(self) -> list[Line]:
        """The lines that training wrote."""
        return training(self.lines)

    @property
    def evaluations(self) -> list[Line]:
        """The lines that evaluations wrote."""
        return evaluations(self.lines)

    @property
    def diagnoses(self) -> list[Line]:
        """The lines that diagnoses of the gradient wrote."""
        return diagnoses(self.lines)

    @property
    def best(self) -> Line | None:
        """The evaluation with the smallest top-1 error, of a text the fewest bits; the first of equals."""
        return best(self.lines)

    @property
    def measure(self) -> Measure:
        """What it is judged by."""
        return measure(self.lines)


def read(directory: Path) -> Run:
    """The run in a work directory, whatever it has got to.

    Raises FileNotFoundError where there is none, ValueError where its configuration cannot be read.
    """
    path = directory / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{directory} is not the work directory of a run: it holds no config.json")
    lines = read_lines(directory / "metrics.jsonl")
    return Run(
        directory, _options(path), lines, *(_options(directory / f"{name}.json") for name in ("machine", "model"))
    )


def _options(path: Path) -> dict[str, Any]:
    """The JSON object in a file, empty where there is no file."""
    try:
        return {**json.loads(path.read_text())} if path.is_file() else {}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The options in which the runs differ, with each run's value; None where a run has no such option."""
    names = dict.fromkeys(name for run in runs for name in run.config)
    values = {name: [run.config.get(name) for run in runs] for name in names}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found)}
