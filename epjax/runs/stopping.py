"""Ways a run ends early: a signal, which is obeyed after the step at hand, and numbers that are none."""

import math
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from epjax.training import processes

TRACEBACK = "EPJAX_TRACEBACK"

# Of the codes in sysexits.h the one that means: try the same again.
STOPPED_EXIT_CODE = 75
INTERRUPTED_EXIT_CODE = 128 + signal.SIGINT

# A batch system's end, Ctrl-C, a terminal that was closed, and what `sbatch --signal` is told to send.
SIGNALS = [
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)  # Windows has two of them
]


class Stopped(Exception):
    """A signal asked the run to stop, and its state is saved."""


class NotFinite(ArithmeticError):
    """The cost, a gradient or the residual of the equilibria became NaN or infinite."""


def broken(metrics: Mapping[str, Any]) -> str | None:
    """Which of them became so in a step, by what `epjax.training.step.train_step` measured; None: all are numbers."""
    if metrics["finite"]:
        return None
    told = {
        "cost": "the cost",
        "residual": "the residual of the equilibria",
        "free_residual": "the residual of the free phase",
    }
    for name, words in told.items():
        if name in metrics and not math.isfinite(metrics[name]):
            return words
    return "a gradient"


MENDABLE = (ValueError, OSError, NotFinite)
"""What a user can mend, said in one sentence."""


def sentence(error: BaseException) -> str:
    """The error as one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {' '.join(str(error.filename).split())}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def together() -> Iterator[None]:
    """An error in here ends all processes of the run, with its sentence; where there is one process, it is raised."""
    try:
        yield
    except Stopped:
        raise
    except BaseException as error:
        if processes.count() == 1:
            raise
        if isinstance(error, KeyboardInterrupt):
            processes.end("interrupted", INTERRUPTED_EXIT_CODE)
        if os.environ.get(TRACEBACK) or not isinstance(error, MENDABLE):
            traceback.print_exc()
        processes.end(sentence(error))


class StopRequest:
    """A context in which a signal asks for a stop and ends nothing; Ctrl-C after that ends all processes at once.

    A signal that the run was started to ignore, as `nohup` does with SIGHUP, is ignored.
    """

    def __init__(self) -> None:
        self._moment = processes.Moment()
        self._before: dict[int, Any] = {}

    def due(self) -> str | None:
        """The signal that asks to stop here, if one does: the same in all processes, which all must ask in turn."""
        return self._moment.come()

    def __enter__(self) -> "StopRequest":
        self._moment.__enter__()
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._moment.__exit__(kind, error, trace)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self._moment.wish is None:
            self._moment.wish = name
            _say(f"{name}: the run ends after the step at hand, and is saved; Ctrl-C ends it at once, unsaved")
        elif number == signal.SIGINT:
            _end_now(f"ended at once by {name} after {self._moment.wish}: what was saved before is kept")


def _say(text: str) -> None:
    """Write a line to the standard error, from a signal handler too; to a terminal that was closed nothing more."""
    try:
        os.write(2, f"\n{text}\n".encode())
    except OSError:
        nothing = os.open(os.devnull, os.O_WRONLY)
        for lost in (1, 2):
            os.dup2(nothing, lost)


def _end_now(text: str) -> None:
    """End without waiting for anything, from a signal handler."""
    for worker in multiprocessing.active_children():
        worker.kill()
    if processes.count() > 1:  # by a thread, for what the handler has interrupted may be an end already
        threading.Thread(target=processes.end, args=(text, INTERRUPTED_EXIT_CODE), daemon=True).start()
    else:
        _say(text)
        os._exit(INTERRUPTED_EXIT_CODE)
