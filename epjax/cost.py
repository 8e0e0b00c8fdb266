"""Costs C(h_L, y) of ONE example's output state h_L [classes]; y is a class index or a vector of class weights."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

Cost = Callable[[Array, Array], Array]


def as_target(y: Array, num_classes: int, dtype: jnp.dtype) -> Array:
    """y as a vector [classes]: one-hot for an integer class, itself for soft labels.

    Raises ValueError for soft labels of another length than the output.
    """
    if jnp.issubdtype(y.dtype, jnp.integer):
        return jax.nn.one_hot(y, num_classes, dtype=dtype)
    if y.shape != (num_classes,):
        raise ValueError(f"soft labels y must have shape ({num_classes},) an example, got {y.shape}")
    return y.astype(dtype)


def cross_entropy(h_L: Array, y: Array) -> Array:
    """C = - sum_c y_c log softmax(h_L)_c on the linear output."""
    return -jnp.sum(as_target(y, h_L.shape[-1], h_L.dtype) * jax.nn.log_softmax(h_L))


def squared_error(h_L: Array, y: Array) -> Array:
    """C = 1/2 || h_L - y ||^2."""
    d = h_L - as_target(y, h_L.shape[-1], h_L.dtype)
    return 0.5 * jnp.sum(d * d)


COSTS: dict[str, Cost] = {"cross_entropy": cross_entropy, "squared_error": squared_error}
