"""From a command line to an exit code: 0 done, 1 an error in a sentence, 2 unknown options, 75 stopped, 130 Ctrl-C."""

import os
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rich.console import Console

from epjax.runs import seeds
from epjax.runs.config import Config, describe, shared
from epjax.runs.metrics import Line, skipped
from epjax.runs.opening import opening
from epjax.runs.plots import learning_curve
from epjax.runs.precision import settled
from epjax.runs.progress import plain_console
from epjax.runs.records import read
from epjax.runs.stopping import (
    INTERRUPTED_EXIT_CODE,
    MENDABLE,
    STOPPED_EXIT_CODE,
    TRACEBACK,
    Stopped,
    sentence,
    together,
)
from epjax.runs.table import files, method, summary
from epjax.runs.task import Task
from epjax.runs.trainer import Trainer
from epjax.runs.workdir import own
from epjax.training import processes


def run(read: Callable[[], tuple[Config, Config, Callable[[Config], Task]]]) -> int:
    """Run an experiment and return its exit code.

    `read` gives the configuration, the recipe it started from, and a function that opens the data and makes the network
    for a configuration whose precision is settled, which needs the devices. What a user can mend is one sentence on the
    standard error; set EPJAX_TRACEBACK=1 to see where it was raised.
    """
    console = plain_console()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _Warnings()
            config, recipe, make_task = read()
            start = config.processes
            processes.start(start.coordinator, start.num_processes, start.process_id)
            console.quiet = processes.index() > 0
            with together():
                if config.run.seeds is None:
                    _train(config, recipe, make_task, console)
                else:
                    _train_seeds(config, recipe, make_task, console)
    except Stopped as stop:
        console.print(str(stop))
        return STOPPED_EXIT_CODE
    except KeyboardInterrupt:
        print("\nerror: interrupted", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE
    except MENDABLE as error:
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 1
    return 0


def _train_seeds(config: Config, recipe: Config, make_task: Callable[[Config], Task], console: Console) -> None:
    asked, count = config.run, config.run.seeds
    if count is None or count < 1:
        raise ValueError(f"--seeds must be at least 1, got {count}")
    if (asked.workdir / "config.json").is_file():
        raise ValueError(f"--workdir {asked.workdir} holds one run: give --seeds another folder")
    folders = [seeds.folder(asked.workdir, asked.seed + k) for k in range(count)]
    for k, directory in enumerate(folders):
        console.print(f"\nseed {asked.seed + k}, {k + 1} of {count}")
        one = replace(asked, workdir=directory, seed=asked.seed + k, seeds=None)
        _train(replace(config, run=one), recipe, make_task, console)
    if processes.index() == 0:
        (group,) = seeds.grouped([read(directory) for directory in folders])
        console.print(seeds.table(group))


def _train(config: Config, recipe: Config, make_task: Callable[[Config], Task], console: Console) -> None:
    config, recipe = settled(config, recipe)
    task, directory = make_task(config), config.run.workdir
    _check_alike(shared(config) | task.facts())
    title, how = f"{task.title} on {task.dataset.name}", method(config.gradient)

    def draw(lines: list[Line]) -> None:
        learning_curve(lines, directory / "learning_curve.png", title, how)

    trainer = Trainer(config, task, console, draw)
    with own(directory):
        for line in opening(config, recipe, task, trainer.plan.total, console.width):
            console.print(line, soft_wrap=True)
        if config.run.show_config:
            console.print(describe(config, recipe), soft_wrap=True)
        lines = trainer.run()
        console.print(summary(lines, title, how, len(task.dataset.classes), task.dataset.examples))
        if left_out := skipped(lines):
            console.print(f"{len(left_out)} steps were skipped, the last at step {left_out[-1]['step']}")
        for message in sorted(set().union(*processes.gather(sorted(trainer.left_out)))):
            console.print(f"left out: {message}", soft_wrap=True)
        console.print(files(directory), soft_wrap=True)


def _check_alike(options: dict[str, Any]) -> None:
    """Refuse processes that were started for another run than process 0, or see other data."""
    first, *others = processes.gather(options)
    for number, other in enumerate(others, start=1):
        for name, value in first.items():
            if other.get(name) != value:
                raise ValueError(f"{name} is {value} in process 0, but {other.get(name)} in process {number}")


class _Warnings:
    """Shows each warning once, as one line on the standard error of process 0: the others have the same."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if str(message) not in self._seen and processes.index() == 0:
            self._seen.add(str(message))
            print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
