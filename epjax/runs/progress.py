"""What a person sees while the run goes on: a bar at a terminal, a plain line an evaluation elsewhere."""

from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from epjax.runs.metrics import Line

DAY, KNOWN = 86_400.0, 30
"""Seconds of a day, and steps after which the pace is known."""


def plain_console() -> Console:
    """Prints what it is given as it stands: brackets and colons in paths and names mean nothing."""
    return Console(markup=False, emoji=False, highlight=False)


@dataclass(frozen=True)
class Status:
    """The numbers of the bar. `cost` and `error` (top-1, in percent) are of the steps just done."""

    step: int
    epoch: float
    cost: float
    error: float
    images_per_second: float | None
    seconds_left: float | None
    waiting: float


class Reporter:
    """A context that shows a run of `total` steps and `epochs` epochs, of which `done` steps are done."""

    def __init__(
        self,
        console: Console,
        total: int,
        epochs: int,
        done: int = 0,
        top5: bool = True,
        examples: str = "images",
        token: str = "",
    ) -> None:
        self._console, self._total, self._epochs, self._top5 = console, total, epochs, top5
        self._examples, self._token = examples, token
        self._foretold, self._known = False, done + KNOWN
        self._bar = Progress(
            TextColumn("{task.fields[epoch]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:.0f}% · {task.fields[numbers]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, completed=done, epoch="", numbers="compiling")

    def __enter__(self) -> "Reporter":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, status: Status) -> None:
        """Move the bar; once the pace is known say how long it will take, where there is no bar or it is long."""
        self._foretell(status)
        unit = "img" if self._examples == "images" else self._examples
        rate = "" if status.images_per_second is None else f"{status.images_per_second:.4g} {unit}/s · "
        left = "" if status.seconds_left is None else f"{duration(status.seconds_left)} left · "
        numbers = f"{rate}{left}cost {status.cost:.3f} · err {status.error:.1f}% · wait {status.waiting:.0%}"
        epoch = f"epoch {min(int(status.epoch) + 1, self._epochs)}/{self._epochs}"
        self._bar.update(self._task, completed=status.step, epoch=epoch, numbers=numbers)

    def _foretell(self, status: Status) -> None:
        if self._foretold or status.seconds_left is None or status.step < self._known:
            return
        self._foretold, left = True, status.seconds_left
        if left > DAY:
            told = f"about {duration(left)} to go at the pace of the first steps: stopped, the same command goes on"
            self._console.print(told, soft_wrap=True)
        elif not self._console.is_terminal:
            self._console.print(f"about {duration(left)} to go")

    def evaluated(self, line: Line, rate: float | None, waiting: float) -> None:
        """One line for an evaluation, above the bar or by itself."""
        five = f"  top-5 {line['val_top5_error']:6.2f}%" if self._top5 else ""
        speed = "" if rate is None else f"   {rate:.0f} {self._examples}/s, {waiting:.0%} waiting"
        told = "val_bits" in line
        cost = f"{line['val_bits']:.3f} bits per {self._token}" if told else f"cost {line['val_cost']:.4f}"
        self._console.print(
            f"epoch {line['epoch']:g}/{self._epochs}  step {line['step']:>{len(str(self._total))}}"
            f"  top-1 error {line['val_top1_error']:6.2f}%{five}"
            f"  {cost}{speed}   {duration(line['seconds'])}",
            soft_wrap=True,
        )


def duration(seconds: float) -> str:
    """3:05, 1:02:03 or 4d 03:00."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour:02}:{minute:02}"
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"
