"""What pushes the output state away from its free value: a nudge by the cost, or a clamp toward the target."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array

from epjax.cost import Cost, as_target
from epjax.network.activation import Activation, Update
from epjax.shapes import Inexact


@runtime_checkable
class Perturbation(Protocol):
    """The output layer of one example under strength beta: its signal T_L, its error eps_L, its cost term in F."""

    @property
    def beta(self) -> Array:
        """The strength []."""
        ...

    @property
    def at_once(self) -> bool:
        """Whether the output error is there before the first iteration."""
        ...

    def direction(self, h_L: Inexact[Array, "*output"]) -> Inexact[Array, "*output"]:
        """T_L / beta."""
        ...

    def signal(self, h_L: Inexact[Array, "*output"]) -> Inexact[Array, "*output"]:
        """T_L at the output state h_L, in the place of a top-down signal."""
        ...

    def error(self, activation: Activation, a_L: Array, T_L: Array, update: Update) -> Array:
        """eps_L after a full update."""
        ...

    def cost_term(self, h_L: Inexact[Array, "*output"]) -> Inexact[Array, ""]:
        """What F adds to E."""
        ...


@dataclass(frozen=True)
class Nudge:
    """F = E + beta C(h_L, y):  T_L = -beta dC/dh_L(h_L),  h_L <- a_L + T_L."""

    cost: Cost
    y: Array
    beta: Array
    at_once: bool = False

    def direction(self, h_L: Inexact[Array, "*output"]) -> Inexact[Array, "*output"]:
        """-dC/dh_L at h_L [classes]."""
        return -jax.grad(self.cost, holomorphic=jnp.iscomplexobj(h_L))(h_L, self.y)

    def signal(self, h_L: Inexact[Array, "*output"]) -> Inexact[Array, "*output"]:
        """T_L = -beta dC/dh_L at h_L [classes]."""
        return self.beta * self.direction(h_L)

    def error(self, activation: Activation, a_L: Array, T_L: Array, update: Update) -> Array:
        """eps_L as at any layer, with T_L for its top-down signal."""
        return activation.error(a_L, T_L, update)

    def cost_term(self, h_L: Inexact[Array, "*output"]) -> Inexact[Array, ""]:
        """Beta C(h_L, y)."""
        return self.beta * self.cost(h_L, self.y)


@dataclass(frozen=True)
class Clamp:
    """h_L = (1 - beta) h_L^free + beta y, held fixed: T_L = beta (y - h_L^free) and F = E."""

    target: Array
    free_output: Array
    beta: Array
    at_once: bool = True

    def direction(self, h_L: Inexact[Array, "*output"]) -> Inexact[Array, "*output"]:
        """y - h_L^free, whatever h_L."""
        del h_L
        return self.target - self.free_output

    def signal(self, h_L: Inexact[Array, "*output"]) -> Inexact[Array, "*output"]:
        """T_L = beta (y - h_L^free), whatever h_L."""
        return self.beta * self.direction(h_L)

    def error(self, activation: Activation, a_L: Array, T_L: Array, update: Update) -> Array:
        """eps_L = h_L - phi(a_L) = T_L - (phi(a_L) - h_L^free), the small part first."""
        del update
        return T_L - (activation(a_L) - self.free_output)

    def cost_term(self, h_L: Inexact[Array, "*output"]) -> Inexact[Array, ""]:
        """0: the output is held, not pulled."""
        return 0.0 * h_L[0]


@dataclass(frozen=True)
class Weighed:
    """A perturbation of an output whose error weighs pi_L in the energy: pi_L eps_L = -beta dC/dh_L.

    A nudge is pi_L times weaker; what is held stays where it is.
    """

    inner: Perturbation
    precision: float

    @property
    def beta(self) -> Array:
        """That of the signal."""
        return self.inner.beta if self.at_once else self.inner.beta / self.precision

    @property
    def at_once(self) -> bool:
        """As it was."""
        return self.inner.at_once

    def direction(self, h_L: Inexact[Array, "*output"]) -> Inexact[Array, "*output"]:
        """T_L / beta."""
        return self.inner.direction(h_L)

    def signal(self, h_L: Inexact[Array, "*output"]) -> Inexact[Array, "*output"]:
        """T_L, of a nudge divided by pi_L."""
        return self.beta * self.inner.direction(h_L)

    def error(self, activation: Activation, a_L: Array, T_L: Array, update: Update) -> Array:
        """As it was."""
        return self.inner.error(activation, a_L, T_L, update)

    def cost_term(self, h_L: Inexact[Array, "*output"]) -> Inexact[Array, ""]:
        """As it was: beta C, whatever pi_L."""
        return self.inner.cost_term(h_L)


MakePerturbation = Callable[[Cost, Array, Array, Array], Perturbation]
"""(cost, free output, y, beta) of one example -> its perturbation."""


def _nudge(cost: Cost, output: Array, y: Array, beta: Array) -> Nudge:
    del output
    return Nudge(cost, y, beta)


def _clamp(cost: Cost, output: Array, y: Array, beta: Array) -> Clamp:
    del cost
    return Clamp(as_target(y, output.shape, output.dtype), output, beta)


PERTURBATIONS: Mapping[str, MakePerturbation] = {"nudge": _nudge, "clamp": _clamp}
"""By name."""


def as_perturbation(perturbation: Any) -> MakePerturbation:
    """What makes the perturbation of that name, or the function itself. Raises ValueError for an unknown name."""
    known = PERTURBATIONS.get(perturbation) if isinstance(perturbation, str) else perturbation
    if not callable(known):
        raise ValueError(f"perturbation must be one of {', '.join(PERTURBATIONS)}, or a function, got {perturbation!r}")
    return known
