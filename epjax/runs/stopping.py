"""Ways a run ends early: a signal, which is obeyed after the step at hand, and numbers that are none."""

import math
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


class Stopped(Exception):
    """A signal asked the run to stop, and its state is saved."""


class NotFinite(ArithmeticError):
    """The cost, a gradient or the residual of the equilibria became NaN or infinite."""


def broken(metrics: Mapping[str, Any]) -> str | None:
    """Which of them became so in a step, by what `epjax.training.step.train_step` measured; None: all are numbers."""
    if metrics["finite"]:
        return None
    for name, words in (("cost", "the cost"), ("residual", "the residual of the equilibria")):
        if name in metrics and not math.isfinite(metrics[name]):
            return words
    return "a gradient"


MENDABLE = (ValueError, OSError, NotFinite)
"""What a user can mend, said in one sentence."""


def sentence(error: BaseException) -> str:
    """The error as one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
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
        if os.environ.get(TRACEBACK) or not isinstance(error, MENDABLE):
            traceback.print_exc()
        processes.end(sentence(error))


class StopRequest:
    """A context in which SIGTERM and SIGINT ask for a stop and end nothing; a second one ends the process."""

    def __init__(self) -> None:
        self._moment = processes.Moment()
        self._before: dict[int, Any] = {}

    def due(self) -> str | None:
        """The signal that asks to stop here, if one does: the same in all processes, which all must ask in turn."""
        return self._moment.come()

    def __enter__(self) -> "StopRequest":
        self._moment.__enter__()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._moment.__exit__(kind, error, trace)
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._moment.wish = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
