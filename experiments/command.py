"""From a command line to an exit code: 0 done, 1 an error in one sentence, 2 unknown options, 75 stopped."""

import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

from rich.console import Console

from experiments.config import Config, describe
from experiments.plots import learning_curve
from experiments.stopping import STOPPED_EXIT_CODE, NotFinite, Stopped
from experiments.table import files, method, summary
from experiments.task import Task, gradient
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
            warnings.showwarning = _show_warning
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
    task = make_task()
    gradient(config.gradient, task.network)  # refuses wrong options before anything is touched
    with own(config.run.workdir):
        console.print(task.dataset.origin, highlight=False, soft_wrap=True)
        console.print(describe(config, recipe), highlight=False, markup=False)
        trainer = Trainer(config, task, console)
        lines = trainer.run()
        title = f"{task.title} on {task.dataset.name}"
        how = method(config.gradient)
        learning_curve(lines, config.run.workdir / "learning_curve.png", title, how)
        console.print(summary(lines, title, how))
        for message in sorted(trainer.left_out):
            console.print(f"left out: {message}", highlight=False, soft_wrap=True)
        console.print(files(config.run.workdir), highlight=False, soft_wrap=True)


def sentence(error: BaseException) -> str:
    """The error as one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)
