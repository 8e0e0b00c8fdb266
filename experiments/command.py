"""From a command line to an exit code: 0 done, 1 an error in one sentence, 2 unknown options, 75 stopped."""

import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

from rich.console import Console

from experiments.config import Config, describe
from experiments.metrics import Line, skipped
from experiments.plots import learning_curve
from experiments.stopping import STOPPED_EXIT_CODE, NotFinite, Stopped
from experiments.table import files, method, summary
from experiments.task import Task
from experiments.trainer import Trainer
from experiments.workdir import own

TRACEBACK = "EPJAX_TRACEBACK"


def run(read: Callable[[], tuple[Config, Config, Callable[[], Task]]]) -> int:
    """Run an experiment and return its exit code.

    `read` gives the configuration, the recipe it started from, and a function that opens the data and makes
    the network. What a user can mend is one sentence on the standard error; set EPJAX_TRACEBACK=1 to see
    where it was raised.
    """
    console = Console()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _Warnings()
            _train(*read(), console)
    except Stopped as stop:
        console.print(str(stop), highlight=False)
        return STOPPED_EXIT_CODE
    except (ValueError, OSError, NotFinite) as error:
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 1
    return 0


def _train(config: Config, recipe: Config, make_task: Callable[[], Task], console: Console) -> None:
    task, directory = make_task(), config.run.workdir
    title, how = f"{task.title} on {task.dataset.name}", method(config.gradient)

    def draw(lines: list[Line]) -> None:
        learning_curve(lines, directory / "learning_curve.png", title, how)

    trainer = Trainer(config, task, console, draw)
    with own(directory):
        console.print(task.dataset.origin, highlight=False, soft_wrap=True)
        console.print(describe(config, recipe), highlight=False, markup=False, soft_wrap=True)
        lines = trainer.run()
        console.print(summary(lines, title, how))
        if left_out := skipped(lines):
            console.print(
                f"{len(left_out)} steps were skipped, the last at step {left_out[-1]['step']}", highlight=False
            )
        for message in sorted(trainer.left_out):
            console.print(f"left out: {message}", highlight=False, soft_wrap=True)
        console.print(files(directory), highlight=False, soft_wrap=True)


def sentence(error: BaseException) -> str:
    """The error as one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


class _Warnings:
    """Shows each warning once, as one line on the standard error."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if str(message) not in self._seen:
            self._seen.add(str(message))
            print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
