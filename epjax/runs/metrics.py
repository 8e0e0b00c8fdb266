"""metrics.jsonl: one JSON object a line, in the order of steps, without gap or duplicate after a resume."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

from epjax.diagnosis.report import Diagnosis
from epjax.runs.loggers import LOGGERS, Guarded

Line = dict[str, Any]


class MetricsLog:
    """Appends lines to a file, and to the loggers of `log_to`; `lines` holds them all, from before a resume too.

    What stands in the file after `from_step` belongs to steps that will be done again, and is removed.
    """

    def __init__(
        self,
        path: Path,
        from_step: int,
        write: bool = True,
        log_to: Sequence[str] = ("tensorboard",),
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = path
        self.lines = [line for line in read_lines(path) if line["step"] <= from_step]
        self._file: FileIO | None = None
        self._loggers: list[Guarded] = []
        if write:
            new = path.with_suffix(".partial")
            new.write_text("".join(_encode(line) for line in self.lines))
            new.replace(path)
            self._file = path.open("ab", buffering=0)  # a buffer would be lost, or written twice, after a failure
            told = (path.parent, self.lines, config or {})
            self._loggers = [Guarded(name, partial(LOGGERS[name], *told)) for name in log_to]

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line and hand it to the operating system. Raises OSError where there is no room for it."""
        self.lines.append(dict(line))
        if self._file is not None:
            text = _encode(line).encode()
            try:
                written = self._file.write(text)
            except OSError as error:
                raise OSError(f"could not write to {self.path}: {error.strerror}") from error
            if written != len(text):
                raise OSError(f"could not write to {self.path}: only {written} of {len(text)} bytes had room")
        for logger in self._loggers:
            logger.write(line)

    def sync(self) -> None:
        """Bring all lines to the disk: done before a checkpoint, whose steps must not lack a line."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the files."""
        if self._file is not None:
            self._file.close()
        for logger in self._loggers:
            logger.close()

    def is_evaluated(self, step: int) -> bool:
        """Whether there is an evaluation of this step."""
        return any(line["step"] == step for line in evaluations(self.lines))


def evaluations(lines: list[Line]) -> list[Line]:
    """The lines that evaluations wrote."""
    return [line for line in lines if "val_top1_error" in line]


@dataclass(frozen=True)
class Measure:
    """What runs are judged by: the smaller the better, whose best checkpoint is kept."""

    quantity: str
    words: str
    form: str
    unit: str = ""

    def of(self, line: Line) -> float:
        """The number in an evaluation; infinite where it has none."""
        return float(line.get(self.quantity, math.inf))

    def told(self, line: Line) -> str:
        """The number as people read it."""
        return f"{self.of(line):{self.form}}{self.unit}"


ERROR = Measure("val_top1_error", "top-1 error", ".2f", "%")
BITS = Measure("val_bits", "bits per token", ".3f")
"""Of a text, where errors say little: log 2 of them are its cost."""


def measure(lines: Sequence[Line]) -> Measure:
    """That of a run, by its lines."""
    return BITS if any(BITS.quantity in line for line in lines) else ERROR


def best(lines: Sequence[Line]) -> Line | None:
    """The best evaluation, the first of equals."""
    return min(evaluations(list(lines)), key=measure(lines).of, default=None)


def training(lines: list[Line]) -> list[Line]:
    """The lines that training wrote."""
    return [line for line in lines if "cost" in line]


def diagnoses(lines: list[Line]) -> list[Line]:
    """The lines that `--diagnose-every` wrote, each with its `verdict`."""
    return [line for line in lines if "verdict" in line]


def diagnosis_line(report: Diagnosis) -> Line:
    """A diagnosis as numbers: of the whole gradient, of the worst layer, and the cosine of every layer."""
    return {
        "verdict": report.verdict,
        "advice": report.advice,
        "ep_cosine": report.cosine,
        "ep_norm_ratio": report.norm_ratio,
        "ep_worst_layer": report.worst,
        "ep_worst_cosine": report.worst_cosine,
        "ep_residual": report.residuals[-1],
        "ep_crossings": max(layer.crossings for layer in report.layers),
        "ep_cosines": [layer.cosine for layer in report.layers],
    }


def in_bits(line: Mapping[str, Any]) -> Line:
    """`bits` for its cost, `val_bits` for its validation cost: of a cross-entropy, in nats, divided by log 2."""
    costs = {"cost": "bits", "val_cost": "val_bits"}
    return {bits: line[cost] / math.log(2) for cost, bits in costs.items() if cost in line}


def skipped(lines: list[Line]) -> list[Line]:
    """The lines of steps that were left out, each with its reason as `skipped`."""
    return [line for line in lines if "skipped" in line]


def skipped_in_a_row(lines: list[Line], step: int) -> int:
    """How many steps up to and with `step` were left out, one after the other."""
    left_out, count = {line["step"] for line in skipped(lines)}, 0
    while step - count in left_out:
        count += 1
    return count


def read_lines(path: Path) -> list[Line]:
    """All whole lines of a file; a last line that a killed run cut off is left out. No file: no lines."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            break
        lines.append(line)
    return lines


def _encode(line: Mapping[str, Any]) -> str:
    """JSON has no word for what is not a number: null."""
    finite = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in line.items()}
    return json.dumps(finite) + "\n"
