"""Alarms before a run is lost, each said once: what a step measured that no longer bodes well.

    displaced   errors are a large part of the states somewhere: beta is not small any more
    at chance   the cost is that of guessing and does not fall
    silent      the gradient of whole layers is exactly zero: no unit of theirs is active for any image of the batch
    collapsed   the gradient's norm is a tiny part of what it was at first

docs/training.md tells on which runs they were tried.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any

DISPLACED = 0.3
"""Share of a state's norm that an error may have."""
WINDOW = 100
"""Steps over which a cost must fall, and of the first gradients."""
NEAR, FALL = 0.98, 0.005
"""At chance: the window's mean cost is above NEAR of that of guessing, and its second half no lower by FALL of it."""
COLLAPSED = 1e-4
"""Of the median norm of the first steps."""


def guessing(cost: str, classes: int, positions: int = 1) -> float | None:
    """The lowest mean cost of an output that does not look at the image, classes equally often; None: not known.

    Squared errors add over the positions of an output, cross-entropy is their mean.
    """
    known = {"cross_entropy": math.log(classes), "squared_error": 0.5 * positions * (1 - 1 / classes)}
    return known.get(cost)


@dataclass
class Alarms:
    """What one run, from where it was started or continued, has shown so far."""

    beta: float | None
    """The nudging strength, where there is one."""
    chance: float | None
    """The cost of guessing, where it is known."""
    _costs: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _norms: list[float] = field(default_factory=list)
    _told: set[str] = field(default_factory=set)

    def see(self, step: int, values: Mapping[str, Any]) -> list[str]:
        """The sentences that this step's metrics give rise to."""
        found = {
            "displaced": self._displaced(values),
            "at chance": self._at_chance(float(values["cost"])),
            "silent": self._silent(values),
            "collapsed": self._collapsed(values),
        }
        new = {name: words for name, words in found.items() if words is not None and name not in self._told}
        self._told |= new.keys()
        return [f"step {step}: {words}" for words in new.values()]

    def _displaced(self, values: Mapping[str, Any]) -> str | None:
        share = float(values.get("displacement", 0.0))
        if self.beta is None or not share > DISPLACED:
            return None
        layer, lower = int(values["displaced_layer"]), 0.1 * self.beta
        what = f"errors are {share:.2g} of the states in layer {layer}"
        return f"{what}: beta {self.beta:g} is no longer small: lower it to {lower:.2g}"

    def _at_chance(self, cost: float) -> str | None:
        self._costs.append(cost)
        if self.chance is None or len(self._costs) < WINDOW:
            return None
        costs = list(self._costs)
        first, second = mean(costs[: WINDOW // 2]), mean(costs[WINDOW // 2 :])
        if min(first, second) < NEAR * self.chance or second < first - FALL * self.chance:
            return None
        what = f"for {WINDOW} steps the cost has been that of guessing, {self.chance:.3g}, and has not fallen"
        return f"{what}: lower the learning rate, or start again with another gain"

    def _silent(self, values: Mapping[str, Any]) -> str | None:
        count = int(values.get("silent_layers", 0))
        if not count:
            return None
        layers = "1 layer has" if count == 1 else f"{count} layers have"
        return f"{layers} a gradient of exactly zero: no unit there is active for any image of the batch"

    def _collapsed(self, values: Mapping[str, Any]) -> str | None:
        if "gradient_norm" not in values:
            return None
        norm = float(values["gradient_norm"])
        if len(self._norms) < WINDOW:
            self._norms.append(norm)
        first = median(self._norms)
        if not norm < COLLAPSED * first:
            return None
        return f"the gradient's norm is {norm:.2g}, of {first:.2g} in the first steps: nothing is learnt any more"
