"""Costs C(h_L, y) of ONE example's output state h_L [classes]; y is a class index or a vector of class weights.

Which of them it is, its shape decides (see `as_target`). A batch has y [B] or [B, classes].
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from epjax.shapes import Float, Inexact, Shaped, is_known

Cost = Callable[[Array, Array], Array]


def as_target(y: ArrayLike, num_classes: int, dtype: jnp.dtype) -> Array:
    """y of one example as a vector [classes]: its shape says what it means, whatever its dtype.

        []            a class index (a whole number of any dtype): one-hot, NaN where there is no such class
        [classes]     class weights, themselves: soft labels, one-hot ones, a target
        [1]           a class index, where there are more classes than one

    Raises ValueError for another shape. NaN makes a cost that is not finite, which a training run notices.
    """
    y = jnp.asarray(y)
    if y.shape == (num_classes,):
        return y.astype(dtype)
    if y.shape not in ((), (1,)):
        what = f"soft labels y must have shape ({num_classes},) an example, and a class index none"
        raise ValueError(f"{what}, got {y.shape}")
    label = y.reshape(())
    if jnp.issubdtype(label.dtype, jnp.floating):
        exists = (label >= 0) & (label < num_classes) & (label == jnp.floor(label))
    else:
        label = label.astype(jnp.int32) if label.dtype.itemsize < 4 else label  # int8 does not count to 1,000
        exists = (label >= 0) & (label < num_classes)
    one_hot = jax.nn.one_hot(label.astype(jnp.int32), num_classes, dtype=dtype)
    return jnp.where(exists, one_hot, jnp.asarray(jnp.nan, dtype))


def smooth_labels(y: Shaped[ArrayLike, "..."], num_classes: int, amount: float) -> Float[Array, " classes"]:
    """(1 - amount) onehot(y) + amount / num_classes, float32 [classes] (arXiv:1512.00567): soft labels for any cost.

    Raises ValueError for an amount outside [0, 1).
    """
    if not 0 <= amount < 1:
        raise ValueError(f"label_smoothing must be at least 0 and less than 1, got {amount}")
    return (1 - amount) * as_target(y, num_classes, jnp.dtype(jnp.float32)) + amount / num_classes


def cross_entropy(h_L: Inexact[Array, " classes"], y: Shaped[ArrayLike, "..."]) -> Inexact[Array, ""]:
    """C = - sum_c y_c log softmax(h_L)_c on the linear output."""
    return -jnp.sum(as_target(y, _classes(h_L), h_L.dtype) * jax.nn.log_softmax(h_L))


def squared_error(h_L: Inexact[Array, " classes"], y: Shaped[ArrayLike, "..."]) -> Inexact[Array, ""]:
    """C = 1/2 || h_L - y ||^2."""
    d = h_L - as_target(y, _classes(h_L), h_L.dtype)
    return 0.5 * jnp.sum(d * d)


def log_phase(o: Inexact[Array, " classes"], y: Shaped[ArrayLike, "..."]) -> Inexact[Array, ""]:
    """C = - sum_c log((1 + e + t_c o_c) / (2 + e)), t = 2 onehot(y) - 1, e = 0.01: for outputs o = sin p in [-1, 1].

    It is - log((1 + e + cos(p - t pi / 2)) / (2 + e)) of phases p, whose force grows where a phase is wrong by pi
    (arXiv:2402.08579). Beyond [-1, 1] it is flat.
    """
    t = 2 * as_target(y, _classes(o), o.dtype) - 1
    e = 0.01
    return -jnp.sum(jnp.log(jnp.maximum(1 + e + t * o, e) / (2 + e)))


def _classes(h_L: Array) -> int:
    if h_L.ndim != 1:
        raise ValueError(f"the output must be one number a class, [classes], got shape {h_L.shape}: flatten or pool it")
    return h_L.shape[0]


def check_soft_labels(cost: Cost, y: Any) -> None:
    """Raises ValueError where `cost` is `cross_entropy` and soft labels y [..., classes] do not sum to one.

    A check of values: inside `jax.jit` y has none yet, and this does nothing. Call it on a batch before a jitted step.
    """
    if cost is not cross_entropy or not is_known(y) or not jnp.issubdtype(y.dtype, jnp.floating):
        return
    _check_sums(y)


def check_labels(cost: Cost, y: Any, num_classes: int) -> None:
    """Raises ValueError unless y [B, ...] holds class indices or class weights for a network of `num_classes` outputs.

    Shapes are always looked at, as `as_target` does; values where they are known: not inside `jax.jit`, where a label
    that is no class makes the cost NaN. Call it on a batch before a jitted step.
    """
    if y.shape[1:] not in ((), (1,), (num_classes,)):
        allowed = f"class indices [B] or class weights [B, {num_classes}]"
        raise ValueError(f"y must be {allowed}, got {y.dtype} {list(y.shape)}")
    if not is_known(y):
        return
    if y.shape[1:] == (num_classes,):
        if cost is cross_entropy:
            _check_sums(y)
        return _refuse(y, ~np.isfinite(np.asarray(y, np.float64)), "y must be finite")
    values = np.asarray(y, np.float64)
    wrong = ~((values >= 0) & (values < num_classes) & (values == np.floor(values)))
    _refuse(y, wrong, f"y must hold class indices 0..{num_classes - 1}, whole numbers")


def _check_sums(y: Any) -> None:
    sums = np.asarray(y, np.float64).sum(axis=-1)
    rounding = float(jnp.finfo(y.dtype).eps) if jnp.issubdtype(y.dtype, jnp.floating) else 0.0
    wrong = np.argwhere(~(np.abs(sums - 1) <= 1e-3 + 4 * rounding))
    if wrong.size:
        place = tuple(int(i) for i in wrong[0])
        where = f"y[{', '.join(map(str, place))}]" if place else "y"
        raise ValueError(f"soft labels must sum to one for cross_entropy, but {where} sums to {sums[place]:g}")


def _refuse(y: Any, wrong: np.ndarray, sentence: str) -> None:
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(f"{sentence}, got {np.asarray(y)[place]} at y[{', '.join(map(str, place))}]")


COSTS: dict[str, Cost] = {
    "cross_entropy": cross_entropy,
    "squared_error": squared_error,
    "log_phase": log_phase,
}
"""By name."""

NO_COSTS = {
    "one_minus_cos": "1 - cos(p - t) has no force where a phase p is wrong by pi, and training stays there: "
    "use log_phase or squared_error of its sine",
}
"""What is asked for under a name and is none, with the reason."""


def as_cost(cost: Any) -> Cost:
    """The cost of that name, or the function itself. Raises ValueError for anything else."""
    known = COSTS.get(cost) if isinstance(cost, str) else cost
    if isinstance(cost, str) and cost in NO_COSTS:
        raise ValueError(f"cost {cost} is none for training: {NO_COSTS[cost]}")
    if not callable(known) or isinstance(known, type):
        raise ValueError(f"cost must be one of {', '.join(COSTS)}, or a function of output and target, got {cost!r}")
    return known
