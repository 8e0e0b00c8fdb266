"""Steps that take far longer than usual."""

from collections import deque
from statistics import median

TIMES, AT_LEAST, WINDOW, KNOWN = 5.0, 1.0, 100, 5


class Pace:
    """Knows how long a step takes: the median of the last 100, once there are 5."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=WINDOW)

    def slow(self, seconds: float) -> float | None:
        """The usual seconds, where this step took more than 5 times as long and more than one second."""
        usual = median(self._seconds) if len(self._seconds) >= KNOWN else None
        self._seconds.append(seconds)
        return usual if usual is not None and seconds > max(AT_LEAST, TIMES * usual) else None
