"""Where the lines of metrics.jsonl go as well: TensorBoard, CSV, Weights & Biases. One that fails stops nothing."""

import csv
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from epjax.extras import extra
from epjax.runs.tensorboard import EventLog, scalars

Line = Mapping[str, Any]


class Logger(Protocol):
    """What takes lines."""

    def write(self, line: Line) -> None:
        """One line."""
        ...

    def close(self) -> None:
        """No line comes any more."""
        ...


class CsvLog:
    """`training.csv` and `validation.csv` in `directory`, which hold what metrics.jsonl holds; empty: no number.

    A column that comes later is added to the lines before it.
    """

    def __init__(self, directory: Path, lines: Sequence[Line]) -> None:
        self._tables: dict[Path, list[Line]] = {directory / f"{name}.csv": [] for name in ("training", "validation")}
        self._columns: dict[Path, list[str]] = {path: [] for path in self._tables}
        for path in self._tables:
            path.unlink(missing_ok=True)
        for line in lines:
            self.write(line)

    def write(self, line: Line) -> None:
        """Append it to its file. Raises OSError where there is no room."""
        training, validation = self._tables
        path = validation if "val_cost" in line else training
        known, plain = self._columns[path], {name: v for name, v in line.items() if not isinstance(v, list)}
        new = [name for name in plain if name not in known]
        self._tables[path].append(plain)
        known += new
        rows = self._tables[path] if new else [plain]
        with path.open("w" if new else "a", newline="") as file:
            writer = csv.DictWriter(file, known)
            if new:
                writer.writeheader()
            writer.writerows(rows)

    def close(self) -> None:
        """Each line is on its way already."""


class WandbLog:
    """A run of Weights & Biases with the configuration and, at the end, the last evaluation as its summary.

    The folder keeps the run's name, so that a run which goes on is one there, too. Its own environment variables say
    where and as whom: WANDB_PROJECT (default: epjax), WANDB_MODE=offline. Needs the extra epjax[wandb].
    """

    def __init__(self, directory: Path, lines: Sequence[Line], config: Mapping[str, Any]) -> None:
        with extra("wandb"):
            import wandb
        named = directory / "wandb_run.txt"
        name = named.read_text().strip() if named.exists() else None
        project = os.environ.get("WANDB_PROJECT", "epjax")
        self._run = wandb.init(project=project, id=name, resume="allow", dir=str(directory), config=dict(config))
        named.write_text(f"{self._run.id}\n")
        self._last: dict[str, float] = {}
        self._since = lines[-1]["step"] if name and lines else 0
        for line in lines:
            self._keep(line)

    def write(self, line: Line) -> None:
        """All numbers of a step; those of steps that it has are left out there."""
        self._keep(line)
        if line["step"] > self._since:
            self._run.log(dict(scalars(line)), step=line["step"])

    def _keep(self, line: Line) -> None:
        self._last |= {tag: value for tag, value in scalars(line) if tag.startswith("val/")}

    def close(self) -> None:
        """End the run, its summary the last evaluation."""
        for tag, value in self._last.items():
            self._run.summary[tag] = value
        self._run.finish()


Make = Callable[[Path, Sequence[Line], Mapping[str, Any]], Logger]
LOGGERS: Mapping[str, Make] = {
    "tensorboard": lambda directory, lines, config: EventLog(directory / "tensorboard", lines),
    "csv": lambda directory, lines, config: CsvLog(directory, lines),
    "wandb": WandbLog,
}
"""What `--log-to` knows."""


class Guarded:
    """A logger that is left off, with one warning, when it fails first."""

    def __init__(self, name: str, make: Callable[[], Logger]) -> None:
        self._name = name
        self._logger: Logger | None = None
        self._logger = self._try(make)

    def write(self, line: Line) -> None:
        """If it is there still."""
        if (logger := self._logger) is not None:
            self._try(lambda: logger.write(line))

    def close(self) -> None:
        """If it is there still."""
        if (logger := self._logger) is not None:
            self._try(logger.close)
        self._logger = None

    def _try(self, do: Callable[[], Any]) -> Any:
        try:
            return do()
        except Exception as error:
            self._logger = None
            reason = " ".join(str(error).split()) or type(error).__name__
            warnings.warn(f"logging to {self._name} failed and is left off: {reason}", stacklevel=4)
            return None
