"""Means over a window of steps, images a second, and the share of time spent waiting for data."""

import time
from collections.abc import Mapping
from typing import Any

NAMES = ("cost", "top1_error", "top5_error")
MEASURED = ("gradient_norm",)
"""Means too, where a step measured them."""
WORST = ("residual", "free_residual", "displacement", "silent_layers")
"""Of a window the largest counts."""


class Meter:
    """Collects what steps report until a training line is due.

    The sums of an unfinished window go into a checkpoint (`sums`), so that the line which a resumed run
    writes is the line of an uninterrupted one. Times are of this process only.
    """

    def __init__(self, batch_size: int, sums: Mapping[str, float] | None = None) -> None:
        self.sums: dict[str, float] = dict(sums or dict.fromkeys(("steps", *NAMES), 0.0))
        self._batch_size = batch_size
        self._timed_steps = 0
        self._elapsed = self._waited = 0.0
        self._since: float | None = None
        self.images_per_second: float | None = None
        self.step_seconds: float | None = None

    def add(self, metrics: Mapping[str, Any] | None, waited: float) -> None:
        """One finished step, before which the loop waited so many seconds for its batch; None: it was skipped."""
        if metrics is not None:
            self.sums["steps"] += 1
            for name in NAMES:
                self.sums[name] += float(metrics[name])
            for name in MEASURED:
                if name in metrics:
                    self.sums[name] = self.sums.get(name, 0.0) + float(metrics[name])
            for name in WORST:
                if name in metrics:
                    self.sums[name] = max(self.sums.get(name, 0.0), float(metrics[name]))
        now = time.perf_counter()
        self.step_seconds = None if self._since is None else now - self._since
        if self.step_seconds is not None:  # the first step after a start or a pause is not timed: it may compile
            self._elapsed += self.step_seconds
            self._waited += waited
            self._timed_steps += 1
            self.images_per_second = self._timed_steps * self._batch_size / self._elapsed
        self._since = now

    def pause(self) -> None:
        """What comes now (an evaluation, a checkpoint) is not training."""
        self._since = None

    @property
    def waiting(self) -> float:
        """Share of the timed steps that the loop spent waiting for data."""
        return self._waited / self._elapsed if self._elapsed else 0.0

    def line(self) -> dict[str, Any]:
        """The window's means, errors in percent, the worst residuals where measured; a new window starts."""
        steps = self.sums["steps"]
        rate = None if self.images_per_second is None else round(self.images_per_second, 2)
        means = {
            "cost": self.sums["cost"] / steps,
            "top1_error": 100.0 * self.sums["top1_error"] / steps,
            "top5_error": 100.0 * self.sums["top5_error"] / steps,
            "images_per_second": rate,
            "waiting": round(self.waiting, 4),
        }
        means |= {name: self.sums[name] / steps for name in MEASURED if name in self.sums}
        means |= {name: self.sums[name] for name in WORST if name in self.sums}
        self.sums = dict.fromkeys(("steps", *NAMES), 0.0)
        self._timed_steps, self._elapsed, self._waited = 0, 0.0, 0.0
        return means
