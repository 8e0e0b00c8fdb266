"""A device that has no time to settle: so many iterations, or so many time constants.

    iterations   K passes of the way that was asked for, whatever the residual
    duration     ds_k/dt = (response_k - s_k) / tau of all blocks at once, up to t = duration tau:
                 s <- s + w (response - s),   w = 1 - exp(- 1 / steps),   about `steps` to a time constant

Of a displacement an error rho^K is left; what the free phase still lacks is divided by beta.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from epjax.systems.pcn import PCN, Sync
from epjax.systems.relax import Relax


@dataclass(frozen=True)
class Settling:
    """Either `iterations` K or a `duration` in time constants, for both phases.

    While what a block responds to stands still the steps solve its equation exactly, s(t) = s* + (s(0) - s*) exp(- t).
    The free phase of a predictive coding network is a forward pass and takes no time. Raises ValueError unless one of
    the two is given, iterations and steps are at least 1 and the duration is positive.
    """

    iterations: int | None = None
    duration: float | None = None
    steps: int = 4

    def __post_init__(self) -> None:
        if (self.iterations is None) == (self.duration is None):
            given = f"iterations={self.iterations} and duration={self.duration}"
            raise ValueError(f"settling must have iterations or a duration, one of them, got {given}")
        if self.iterations is not None and not self.iterations >= 1:
            raise ValueError(f"iterations of the settling must be at least 1, got {self.iterations}")
        if self.duration is not None and not 0 < self.duration < math.inf:
            raise ValueError(f"duration of the settling must be positive and finite, got {self.duration}")
        if not self.steps >= 1:
            raise ValueError(f"steps of the settling must be at least 1, got {self.steps}")

    def of(self, system: Any, method: Any) -> Any:
        """The way to a state of `system`, cut short; None where nothing is iterated."""
        if method is None:
            return None
        if self.iterations is not None:
            count = "sweeps" if "sweeps" in {field.name for field in fields(method)} else "iterations"
            return replace(method, **{count: self.iterations, "tolerance": None})
        assert self.duration is not None
        number = max(1, round(self.duration * self.steps))
        w = -math.expm1(-self.duration / number)
        if isinstance(system, PCN):
            return Sync(number, update="pgd", step_size=w)
        return Relax(number, None, order="sync", over=w)
