"""A number that is computed once, whoever reads it."""

from typing import Any

import jax
from jax import Array, lax


def computed_once(v: Array, theta: Any) -> Array:
    """v, for all that read it: on a CPU they do not compute it again, each for itself.

    XLA for CPU copies sums into every loop that reads them. A residual network's state is a sum over all blocks below,
    so that what it copies grows with depth (32 blocks of width 128: half of the time of a centered gradient).
    `lax.optimization_barrier` is dropped before that; a branch is not, on a number of theta that XLA does not know.
    Both branches give v, unless that number is NaN, when v is NaN. Elsewhere, and without parameters, v as it is.
    """
    leaves = jax.tree.leaves(theta)
    if not leaves:
        return v
    known = lax.stop_gradient(leaves[0]).ravel()[0].astype(v.dtype)

    def behind_a_branch(v: Array) -> Array:
        return lax.cond(known == known, lambda v: v, lambda v: v + known, v)  # type: ignore[no-any-return]

    return lax.platform_dependent(v, cpu=behind_a_branch, default=lambda v: v)  # type: ignore[no-any-return]
