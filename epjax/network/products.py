"""The gradient for the weights of several states at once: one product where each state would take its own.

    a_p = W v_p                                 p = 1..P states of one example: the nudged phases of a scheme
    sum_p w_p v_p delta_p^T                     the gradient for W of sum_p w_p L(a_p), delta_p = dL / da_p: P products
    (sum_p c_p v_p) (sum_p w_p delta_p)^T       what is taken for it here: one product, of a mean and a contrast

With c_p = 1/2 and w_p = +-1 / (2 beta), of two phases +-beta: v+- = vbar +- d and delta+- = deltabar +- e, so that

    (v+ delta+^T - v- delta-^T) / 2 beta = (vbar e^T + d deltabar^T) / beta

and d deltabar^T is left out. In a smooth network d is O(beta) and deltabar, the even part of an error, O(beta^2): that
is of third order, and O(beta^2) of the gradient, as is what a centered scheme leaves. It is zero, the product exact,
where the phases see one v (the clamped input) or where delta- = -delta+ (no gate, no curvature above). At a unit that
only one phase lets through deltabar is O(beta), as is the error of its gate. With a scheme's own c_p and
w_p = c_p / (s_p beta) both factors are what the scheme makes of v and of delta, right to its order, O(beta^2N) with N
points.

Nothing but products is touched. Each delta_p comes through its own phase's gates and pooling routes, and biases, scales
of norms and whatever else is no product have the sum of all phases. So the mean of the states needs no gates or routes
of its own, and no forward pass.
"""

from collections.abc import Callable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Jaxpr, JaxprEqn

from epjax.network.apart import computed_once
from epjax.network.kinks import alone
from epjax.network.meetings import OF_WEIGHT_AND_STATE, STATE, WEIGHT, Known, plain, walk

Mean = Callable[[Array], Array]
"""v_p of this phase -> sum_p c_p v_p."""


def mean_over(c: Array, axis: str, theta: Any) -> Mean:
    """The mean of the phases under a `jax.vmap` of `axis`, with c [] that of this phase; a constant."""

    def mean(v: Array) -> Array:
        phases = lax.stop_gradient(lax.all_gather(c.astype(v.dtype) * v, axis))
        return computed_once(over_phases(phases), theta)

    return mean


def over_phases(v: Array, axis: int = 0) -> Array:
    """The sum of v over its few phases, term by term: XLA for CPU reduces a short axis many times slower."""
    return reduce(jnp.add, (lax.index_in_dim(v, p, axis, keepdims=False) for p in range(v.shape[axis])))


def at_mean_states(f: Callable[..., Array], c: Array, axis: str, theta: Any, *states: Array) -> Array:
    """f(theta, *states) of one phase, whose gradient for theta takes each product at the mean state sum_p c_p v_p.

    Under a `jax.vmap` of `axis` over the phases, with c [] that of this phase. The value, the gradient for the
    states, and the gradient for parameters that enter no product are those of f.
    """
    mean = mean_over(c, axis, theta)

    def meet(program: Jaxpr, equation: JaxprEqn, found: list[Known]) -> list[Any]:
        if equation.primitive.name not in OF_WEIGHT_AND_STATE:
            return plain(program, equation, found)
        here = [lax.stop_gradient(v) if kind == WEIGHT else v for v, kind in found]
        there = [mean(v) if kind == STATE else v for v, kind in found]
        values, means = alone(program, equation, here), alone(program, equation, there)
        return [a + _only_the_gradient(m) for a, m in zip(values, means, strict=True)]

    return walk(f, theta, states, meet)[0]  # type: ignore[no-any-return]


@jax.custom_jvp
def _only_the_gradient(v: Array) -> Array:
    return _zeros_of(v)


@_only_the_gradient.defjvp
def _only_the_gradient_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _zeros_of(primals[0]), tangents[0]


def _zeros_of(v: Array) -> Array:
    """Zeros that are mapped where v is, as its tangent is: in a loop jax wants both alike. XLA leaves out v."""
    return lax.select(jnp.zeros(v.shape, bool), v, jnp.zeros_like(v))
