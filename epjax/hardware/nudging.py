"""A nudge of the wrong strength: T_L = - gain beta dC/do.

To first order in beta the estimate is gain times what it would be: a layer's step is longer or shorter, never turned.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from epjax.hardware.values import Number
from epjax.network.activation import Activation, Update
from epjax.perturbation import Perturbation
from epjax.shapes import Array, Inexact


@dataclass(frozen=True)
class Gained:
    """A perturbation of strength gain beta where beta was asked for."""

    inner: Perturbation
    gain: Number

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
        return jnp.asarray(self.gain, h_L.dtype) * self.inner.direction(h_L)

    def signal(self, h_L: Inexact[Array, "*output"]) -> Inexact[Array, "*output"]:
        """T_L."""
        return self.beta * self.direction(h_L)

    def error(self, activation: Activation, a_L: Array, T_L: Array, update: Update) -> Array:
        """As it was, under the signal that is."""
        return self.inner.error(activation, a_L, T_L, update)

    def cost_term(self, h_L: Inexact[Array, "*output"]) -> Inexact[Array, ""]:
        """Gain beta C."""
        return jnp.asarray(self.gain, h_L.dtype) * self.inner.cost_term(h_L)
