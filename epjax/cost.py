"""Costs C(h_L, y) of ONE example's output state h_L [classes]; y is a class index or a vector of class weights."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
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


def smooth_labels(y: Array, num_classes: int, amount: float) -> Array:
    """(1 - amount) onehot(y) + amount / num_classes, float32 [classes] (arXiv:1512.00567): soft labels for any cost.

    Raises ValueError for an amount outside [0, 1).
    """
    if not 0 <= amount < 1:
        raise ValueError(f"label_smoothing must be at least 0 and less than 1, got {amount}")
    return (1 - amount) * as_target(y, num_classes, jnp.dtype(jnp.float32)) + amount / num_classes


def cross_entropy(h_L: Array, y: Array) -> Array:
    """C = - sum_c y_c log softmax(h_L)_c on the linear output."""
    return -jnp.sum(as_target(y, h_L.shape[-1], h_L.dtype) * jax.nn.log_softmax(h_L))


def squared_error(h_L: Array, y: Array) -> Array:
    """C = 1/2 || h_L - y ||^2."""
    d = h_L - as_target(y, h_L.shape[-1], h_L.dtype)
    return 0.5 * jnp.sum(d * d)


def check_soft_labels(cost: Cost, y: Array) -> None:
    """Raises ValueError where `cost` is `cross_entropy` and soft labels y [..., classes] do not sum to one.

    A check of values: inside `jax.jit` y has none yet, and this does nothing. Call it on a batch before a jitted step.
    """
    if cost is not cross_entropy or isinstance(y, jax.core.Tracer) or not jnp.issubdtype(y.dtype, jnp.floating):
        return
    sums = np.asarray(y, np.float64).sum(axis=-1)
    wrong = np.argwhere(~(np.abs(sums - 1) <= 1e-3 + 4 * float(jnp.finfo(y.dtype).eps)))
    if wrong.size:
        place = tuple(int(i) for i in wrong[0])
        where = f"y[{', '.join(map(str, place))}]" if place else "y"
        raise ValueError(f"soft labels must sum to one for cross_entropy, but {where} sums to {sums[place]:g}")


COSTS: dict[str, Cost] = {
    "cross_entropy": cross_entropy,
    "squared_error": squared_error,
}
"""By name."""


def as_cost(cost: str | Cost) -> Cost:
    """The cost of that name, or the function itself. Raises ValueError for anything else."""
    known = COSTS.get(cost) if isinstance(cost, str) else cost
    if not callable(known):
        raise ValueError(f"cost must be one of {', '.join(COSTS)}, or a function of output and target, got {cost!r}")
    return known
