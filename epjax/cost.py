"""Costs C(h_L, y) of ONE example's output state h_L: class scores [classes], or of any shape [..., classes].

y is a class index, or one for each position, or a target of the output's shape: its shape decides (see `as_target`).
A batch has one more axis in front.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from epjax.shapes import Float, Inexact, Shaped, is_known

Cost = Callable[[Array, Array], Array]


IGNORED = -1
"""The label of a position that does not count, where an output has positions."""


def as_target(y: ArrayLike, output: int | tuple[int, ...], dtype: jnp.dtype) -> Array:
    """y of one example as a target of the shape of its output, [classes] or [..., classes], whatever its dtype.

        [..., classes]   itself: class weights, soft labels, one-hot ones, a target of any kind
        [...]            a class index (a whole number of any dtype) for each position: one-hot, NaN where there is no
                         such class; with positions, -1 is a position that does not count: all zero
        [1]              a class index, where there are more classes than one and no positions

    Raises ValueError for another shape. NaN makes a cost that is not finite, which a training run notices.
    """
    y = jnp.asarray(y)
    shape = (output,) if isinstance(output, int) else output
    if y.shape == shape:
        return y.astype(dtype)
    *positions, num_classes = shape
    if y.shape not in ((), (1,)) if not positions else y.shape != tuple(positions):
        raise ValueError(f"y of an example must have shape {shape} or {tuple(positions)}, got {y.shape}")
    label = y.reshape(positions)
    if jnp.issubdtype(label.dtype, jnp.floating):
        exists = (label >= 0) & (label < num_classes) & (label == jnp.floor(label))
    else:
        label = label.astype(jnp.int32) if label.dtype.itemsize < 4 else label  # int8 does not count to 1,000
        exists = (label >= 0) & (label < num_classes)
    if positions and not jnp.issubdtype(label.dtype, jnp.unsignedinteger):
        exists |= label == IGNORED
    one_hot = jax.nn.one_hot(label.astype(jnp.int32), num_classes, dtype=dtype)
    return jnp.where(exists[..., None], one_hot, jnp.asarray(jnp.nan, dtype))


def smooth_labels(y: Shaped[ArrayLike, "..."], num_classes: int, amount: float) -> Float[Array, " classes"]:
    """(1 - amount) onehot(y) + amount / num_classes, float32 [classes] (arXiv:1512.00567): soft labels for any cost.

    Raises ValueError for an amount outside [0, 1).
    """
    if not 0 <= amount < 1:
        raise ValueError(f"label_smoothing must be at least 0 and less than 1, got {amount}")
    return (1 - amount) * as_target(y, num_classes, jnp.dtype(jnp.float32)) + amount / num_classes


def cross_entropy(h_L: Inexact[Array, "..."], y: Shaped[ArrayLike, "..."]) -> Inexact[Array, ""]:
    """C = - sum_c y_c log softmax(h_L)_c on the linear output; with positions, [..., classes], their mean.

    Positions that do not count, labelled -1 or all of whose weights are zero, are left out of the mean.
    """
    target = as_target(y, _shape(h_L), h_L.dtype)
    total = -jnp.sum(target * _log_softmax(h_L))
    if h_L.ndim == 1:
        return total
    count = jnp.sum(jnp.any(target != 0, axis=-1), dtype=h_L.real.dtype)
    return total / jnp.maximum(count, 1)


def _log_softmax(h_L: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
    """h_c - log sum_c exp h_c, analytic too: of complex numbers the largest real part is taken off."""
    if not jnp.iscomplexobj(h_L):
        return jax.nn.log_softmax(h_L)
    shifted = h_L - lax.stop_gradient(jnp.max(h_L.real, axis=-1, keepdims=True)).astype(h_L.dtype)
    return shifted - jnp.log(jnp.sum(jnp.exp(shifted), axis=-1, keepdims=True))


def binary_cross_entropy(h_L: Inexact[Array, "..."], y: Shaped[ArrayLike, "..."]) -> Inexact[Array, ""]:
    """C = - sum_c [y_c log sigmoid(h_c) + (1 - y_c) log sigmoid(- h_c)]: each output is a yes or no, y_c in [0, 1]."""
    target = as_target(y, _shape(h_L), h_L.dtype)
    return jnp.sum(jax.nn.softplus(h_L) - target * h_L)


def squared_error(h_L: Inexact[Array, "..."], y: Shaped[ArrayLike, "..."]) -> Inexact[Array, ""]:
    """C = 1/2 || h_L - y ||^2, y a target of the output's shape or a class index.

    A position that does not count has a target of zero like any other: leave it out of the output.
    """
    d = h_L - as_target(y, _shape(h_L), h_L.dtype)
    return 0.5 * jnp.sum(d * d)


def log_phase(o: Inexact[Array, " classes"], y: Shaped[ArrayLike, "..."]) -> Inexact[Array, ""]:
    """C = - sum_c log((1 + e + t_c o_c) / (2 + e)), t = 2 onehot(y) - 1, e = 0.01: for outputs o = sin p in [-1, 1].

    It is - log((1 + e + cos(p - t pi / 2)) / (2 + e)) of phases p, whose force grows where a phase is wrong by pi
    (arXiv:2402.08579). Beyond [-1, 1] it is flat.
    """
    t = 2 * as_target(y, _shape(o), o.dtype) - 1
    e = 0.01
    return -jnp.sum(jnp.log(jnp.maximum(1 + e + t * o, e) / (2 + e)))


def _shape(h_L: Array) -> tuple[int, ...]:
    if h_L.ndim < 1:
        raise ValueError("the output must have at least one axis, that of the classes, got a single number")
    return h_L.shape


def check_soft_labels(cost: Cost, y: Any) -> None:
    """Raises ValueError where `cost` is `cross_entropy` and soft labels y [..., classes] do not sum to one.

    A check of values: inside `jax.jit` y has none yet, and this does nothing. Call it on a batch before a jitted step.
    """
    if cost is not cross_entropy or not is_known(y) or not jnp.issubdtype(y.dtype, jnp.floating):
        return
    _check_sums(y)


def check_labels(cost: Cost, y: Any, output: int | tuple[int, ...]) -> None:
    """Raises ValueError unless y [B, ...] holds class indices, or targets, for outputs of one example of that shape.

    Shapes are always looked at, as `as_target` does; values where they are known: not inside `jax.jit`, where a label
    that is no class makes the cost NaN. Call it on a batch before a jitted step.
    """
    shape = (output,) if isinstance(output, int) else tuple(output)
    *positions, num_classes = shape
    indices = ((), (1,)) if not positions else (tuple(positions),)
    if y.shape[1:] not in (*indices, shape):
        one, all_of = (f"[{', '.join(map(str, ('B', *axes)))}]" for axes in (positions, shape))
        what = f"class weights {all_of}" if not positions else f"targets {all_of}"
        raise ValueError(f"y must be class indices {one} or {what}, got {y.dtype} {list(y.shape)}")
    if not is_known(y):
        return
    if y.shape[1:] == shape:
        return _check_targets(cost, y, bool(positions))
    values = np.asarray(y, np.float64)
    wrong = ~((values >= 0) & (values < num_classes) & (values == np.floor(values)))
    ignored = f", or {IGNORED} for a position that does not count" if positions else ""
    if positions:
        wrong &= values != IGNORED
    _refuse(y, wrong, f"y must hold class indices 0..{num_classes - 1}, whole numbers{ignored}")


def _check_targets(cost: Cost, y: Any, positions: bool) -> None:
    if cost is cross_entropy:
        return _check_sums(y, positions)
    values = np.asarray(y, np.float64)
    if cost is binary_cross_entropy:
        return _refuse(y, ~((values >= 0) & (values <= 1)), "y must lie in [0, 1] for binary_cross_entropy")
    return _refuse(y, ~np.isfinite(values), "y must be finite")


def _check_sums(y: Any, positions: bool = False) -> None:
    sums = np.asarray(y, np.float64).sum(axis=-1)
    rounding = float(jnp.finfo(y.dtype).eps) if jnp.issubdtype(y.dtype, jnp.floating) else 0.0
    left_out = positions & np.all(np.asarray(y) == 0, axis=-1)
    wrong = np.argwhere(~(np.abs(sums - 1) <= 1e-3 + 4 * rounding) & ~left_out)
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
    "binary_cross_entropy": binary_cross_entropy,
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
