"""What resistive memories make of an update: links of an `optax.chain`, after the learning rate.

    soft bounds   u <- u (1 + a) [1 - n + n (high - w) / h]   for u > 0
                  u <- u (1 - a) [1 - n + n (w - low) / h]    for u < 0,   h = (high - low) / 2
    dead band     u <- 0 where |u| < threshold

Nonlinearity n: a memory near its end takes a smaller step towards it; asymmetry a: up is not as large as down. At w in
the middle and a = 0 an update is what was asked for. Biases are updated as asked. Soft bounds: Fusi and Abbott,
doi:10.1038/nn1859; of resistive memories in training: Gokmen and Vlasov, arXiv:1603.07341; Rasch et al.,
arXiv:2104.02184.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from epjax.hardware.values import Number, check_least, is_traced
from epjax.hardware.variation import is_bias
from epjax.network import Params
from epjax.shapes import Array


def soft_bounds(
    low: Number, high: Number, nonlinearity: Number = 1.0, asymmetry: Number = 0.0
) -> optax.GradientTransformation:
    """Updates of couplings that lie between `low` and `high`, in their unit; as above.

    Raises ValueError unless low < high, for a nonlinearity outside [0, 1], an asymmetry outside (-1, 1), and where
    `update` is called without params.
    """
    if not is_traced(low) and not is_traced(high) and not -np.inf < low < high < np.inf:
        raise ValueError(f"low of soft_bounds must be below its high, both finite, got {low!r} and {high!r}")
    check_least("nonlinearity", nonlinearity, 0)
    if not is_traced(nonlinearity) and not nonlinearity <= 1:
        raise ValueError(f"nonlinearity must be at most 1, got {nonlinearity!r}")
    if not is_traced(asymmetry) and not -1 < asymmetry < 1:
        raise ValueError(f"asymmetry must lie between -1 and 1, got {asymmetry!r}")

    def one(path: Any, u: Array, w: Array) -> Array:
        if is_bias(path):
            return u
        bottom, top, n, a = (jnp.asarray(v, w.dtype) for v in (low, high, nonlinearity, asymmetry))
        half = 0.5 * (top - bottom)
        up = (1 + a) * (1 - n + n * jnp.maximum(top - w, 0) / half)
        down = (1 - a) * (1 - n + n * jnp.maximum(w - bottom, 0) / half)
        return u * jnp.where(u > 0, up, down)

    def update(updates: Params, params: Params | None) -> Params:
        if params is None:
            raise ValueError("params must be given to the update of soft_bounds, which depends on them, got None")
        return jax.tree_util.tree_map_with_path(one, updates, params)  # type: ignore[no-any-return]

    return optax.stateless(update)


def dead_band(threshold: Number) -> optax.GradientTransformation:
    """Updates of couplings smaller than `threshold`, in the unit of the coupling, are not made.

    Raises ValueError for a threshold that is negative.
    """
    check_least("threshold", threshold, 0)

    def one(path: Any, u: Array) -> Array:
        return u if is_bias(path) else jnp.where(jnp.abs(u) < jnp.asarray(threshold, u.dtype), jnp.zeros_like(u), u)

    return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(one, updates))
