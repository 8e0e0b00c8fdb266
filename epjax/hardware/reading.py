"""How states are read: with noise, averaged, through a converter. All that a device knows of a state is its reads.

    r = ADC( s + sigma / sqrt(N) xi ),   xi ~ N(0, 1),   sigma^2 = floor^2 + (relative RMS(s^0))^2

Subtracted, two reads leave noise of variance 2 sigma^2 / N in a displacement; a gradient has that over beta^2.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from epjax.hardware.values import Number, check_bits, is_traced, quantise
from epjax.network import States
from epjax.shapes import Array, Inexact


@dataclass(frozen=True)
class Adc:
    """A converter of `bits` bits from `low` to `high`, in the unit of the state; arrays [L] are a range for each layer.

        ADC(s) = the nearest of 2^bits levels, both ends included,   D = (high - low) / (2^bits - 1)
        error    at most D / 2 inside the range, of variance D^2 / 12 where s is spread over many levels

    What lies outside is clipped. `bits` may be a fraction, the effective number of bits of a data sheet. Raises
    ValueError for bits outside [1, 24], and unless low < high. Widrow and Kollar, Quantization Noise, 2008, ISBN
    9780521886710.
    """

    bits: Number
    low: Number | Array
    high: Number | Array

    def __post_init__(self) -> None:
        check_bits("bits of the ADC", self.bits)
        low, high = self.low, self.high
        if np.ndim(low) or np.ndim(high) or is_traced(low) or is_traced(high):
            return
        if not -np.inf < low < high < np.inf:
            raise ValueError(f"low of the ADC must be below its high, both finite, got {low!r} and {high!r}")

    def at(self, k: int) -> "Adc":
        """The converter of layer k, from 1."""
        return replace(self, low=self.low[k - 1], high=self.high[k - 1]) if np.ndim(self.low) else self  # type: ignore[index]

    def __call__(self, s: Inexact[Array, "*state"]) -> Inexact[Array, "*state"]:
        """The level that s is read as."""
        return quantise(s, self.low, self.high, self.bits)

    def clips(self, s: Inexact[Array, "*state"]) -> Inexact[Array, ""]:
        """How many of the states lie outside the range, int32."""
        return jnp.sum((s < jnp.asarray(self.low, s.dtype)) | (s > jnp.asarray(self.high, s.dtype)), dtype=jnp.int32)


def read(
    states: States, free: States, relative: Number, floor: Number, reads: Number, adc: Adc | None, key: Array | None
) -> States:
    """(r_1, ..., r_L) of one example; `free` are the states whose RMS counts. Without a key there is no noise."""

    def one(k: int, s: Array, at_rest: Array) -> Array:
        if key is not None:
            rms = jnp.sqrt(jnp.mean(at_rest * at_rest))
            sigma = jnp.hypot(jnp.asarray(floor, s.dtype), jnp.asarray(relative, s.dtype) * rms)
            xi = jax.random.normal(jax.random.fold_in(key, k), s.shape, s.dtype)
            s = s + sigma / jnp.sqrt(jnp.asarray(reads, s.dtype)) * xi
        return s if adc is None else adc.at(k + 1)(s)

    return tuple(one(k, s, at_rest) for k, (s, at_rest) in enumerate(zip(states, free, strict=True)))
