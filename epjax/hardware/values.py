"""Numbers of a data sheet, known or traced, and the grid of so many bits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from epjax.shapes import Array, Inexact

Number = float | Array
"""A number, or a traced scalar of any floating dtype, which a sweep can be vmapped over."""


def is_traced(value: Any) -> bool:
    """Whether it has no value here."""
    return isinstance(value, jax.core.Tracer)


def is_on(value: Any) -> bool:
    """Whether a strength is other than 0: a traced one may be."""
    return is_traced(value) or bool(np.any(np.asarray(value) != 0))


def check_least(name: str, value: Any, least: float) -> None:
    """Raises ValueError unless `value` is one finite number of at least `least`; of a traced one only its shape."""
    if np.shape(value) != ():
        raise ValueError(f"{name} must be one number, got shape {np.shape(value)}: jax.vmap takes many")
    if not is_traced(value):
        given = np.asarray(value)
        if given.dtype.kind not in "iuf" or not (np.isfinite(given) and given >= least):
            raise ValueError(f"{name} must be a finite number, at least {least:g}, got {value!r}")


def check_bits(name: str, bits: Any, least: int = 1) -> None:
    """Raises ValueError unless `bits` lies between `least` and 24; a fraction is an effective number of bits."""
    check_least(name, bits, least)
    if not is_traced(bits) and not bits <= 24:
        raise ValueError(f"{name} must be at most 24, as many as float32 holds, got {bits!r}")


def quantise(
    v: Inexact[Array, "..."], low: Any, high: Any, bits: Any, key: Array | None = None
) -> Inexact[Array, "..."]:
    """One of 2^bits levels from low to high, both among them, D = (high - low) / (2^bits - 1) apart; outside it clips.

        nearest      Q(v) = low + D floor((v - low) / D + 1/2)       |Q(v) - v| <= D / 2, variance D^2 / 12
        stochastic   Q(v) = low + D floor((v - low) / D + U(0, 1))   E Q(v) = v, variance at most D^2 / 4

    With a `key` it rounds stochastically (Gupta et al., arXiv:1502.02551). What has no width stays.
    """
    low, high, bits = (jnp.asarray(n, v.dtype) for n in (low, high, bits))
    top = jnp.maximum(jnp.round(jnp.exp2(bits)) - 1, 1)
    step = (high - low) / top
    up = jnp.asarray(0.5, v.dtype) if key is None else jax.random.uniform(key, v.shape, v.dtype)
    level = jnp.clip(jnp.floor((v - low) / jnp.where(step > 0, step, 1) + up), 0, top)
    return jnp.where(step > 0, low + step * level, v)
