"""A nudge that is not what was asked for: T_L = - gain beta Q(dC/do).

To first order in beta a gain makes the estimate so many times what it would be: longer or shorter, never turned. Levels
turn it, and a force of less than half a level is none.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from epjax.hardware.values import Number, quantise
from epjax.network.activation import Activation, Update
from epjax.perturbation import Perturbation
from epjax.shapes import Array, Inexact


@dataclass(frozen=True)
class Imprecise:
    """A perturbation of strength gain beta where beta was asked for, and whose force has 2^bits - 1 levels.

    Q(f) is the nearest of the levels from -high to high, 0 among them; without `bits` it is f.
    """

    inner: Perturbation
    gain: Number
    bits: Number | None = None
    high: Number = 1.0

    @property
    def beta(self) -> Array:
        """As it was asked for."""
        return self.inner.beta

    @property
    def at_once(self) -> bool:
        """As it was."""
        return self.inner.at_once

    def direction(self, h_L: Inexact[Array, "*output"]) -> Inexact[Array, "*output"]:
        """T_L / beta."""
        force = self.inner.direction(h_L)
        if self.bits is not None:
            levels = jnp.log2(jnp.exp2(jnp.asarray(self.bits, force.dtype)) - 1)
            high = jnp.asarray(self.high, force.dtype)
            force = quantise(force, -high, high, levels)
        return jnp.asarray(self.gain, force.dtype) * force

    def signal(self, h_L: Inexact[Array, "*output"]) -> Inexact[Array, "*output"]:
        """T_L."""
        return self.beta * self.direction(h_L)

    def error(self, activation: Activation, a_L: Array, T_L: Array, update: Update) -> Array:
        """As it was, under the signal that is."""
        return self.inner.error(activation, a_L, T_L, update)

    def cost_term(self, h_L: Inexact[Array, "*output"]) -> Inexact[Array, ""]:
        """Gain beta C."""
        return jnp.asarray(self.gain, h_L.dtype) * self.inner.cost_term(h_L)
