"""Ways a run ends early: a signal, which is obeyed after the step at hand, and numbers that are none."""

import math
import signal
import threading
from collections.abc import Mapping
from types import FrameType, TracebackType
from typing import Any

# Of the codes in sysexits.h the one that means: try the same again.
STOPPED_EXIT_CODE = 75


class Stopped(Exception):
    """A signal asked the run to stop, and its state is saved."""


class NotFinite(ArithmeticError):
    """The cost, a gradient or the residual of the equilibria became NaN or infinite."""


def broken(metrics: Mapping[str, Any]) -> str | None:
    """Which of them became so in a step, from what `epjax.train.train_step` measured; None where all are numbers."""
    if metrics["finite"]:
        return None
    for name, words in (("cost", "the cost"), ("residual", "the residual of the equilibria")):
        if name in metrics and not math.isfinite(metrics[name]):
            return words
    return "a gradient"


class StopRequest:
    """A context in which SIGTERM and SIGINT set `asked` and end nothing; a second one ends the process."""

    def __init__(self) -> None:
        self.asked: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
