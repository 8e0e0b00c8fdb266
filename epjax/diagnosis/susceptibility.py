"""How soft a system's output is: what decides the bias of an estimate and whether its negative phase exists.

    chi = (H^-1)_LL,   o^beta - o^0 = - beta chi dC/do     to first order; H = d^2E/ds^2 on the units that can move
    q   = beta lambda_max(chi C''),   C'' the cost's second derivative at the free output

The relative bias is of order q one-sided and q^2 centered, before units cross their kinks; F = E - beta C has a minimum
as long as q < 1. Of a predictive coding network chi = I + sum_k J_k J_k^T, and sweeps contract by q.
"""

import jax
import jax.numpy as jnp
from jax import Array

from epjax.cost import Cost
from epjax.network import Params
from epjax.systems.system import System

ITERATIONS = 12
"""Of the power iteration: the largest value to some per cent, from below."""


def largest(system: System, cost: Cost, params: Params, x: Array, y: Array, free: object = None) -> Array:
    """lambda_max(chi C'') of one example, by power iteration: w <- chi C'' v, lambda = <C'' v, w> / <C'' v, v>."""
    at_rest = system.free(params, x, free)

    def curved(v: Array) -> Array:
        slope = jax.grad(lambda o: cost(o, y))
        return jax.jvp(slope, (at_rest.output,), (v,))[1]  # type: ignore[no-any-return]

    def step(v: Array, _: None) -> tuple[Array, Array]:
        u = curved(v)
        w = system.answer(params, at_rest, u)
        tiny = jnp.finfo(w.dtype).tiny
        found = jnp.sum(u * w) / jnp.maximum(jnp.sum(u * v), tiny)
        return w / jnp.maximum(jnp.linalg.norm(w.ravel()), tiny), found

    start = jnp.cos(1.0 + jnp.arange(at_rest.output.size, dtype=x.dtype)).reshape(at_rest.output.shape)
    _, found = jax.lax.scan(step, start, None, ITERATIONS)
    return found[-1]
