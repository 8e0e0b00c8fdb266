"""The energy of a predictive coding network, for ONE example with states h = (h_1, ..., h_L)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from epjax.cost import Cost
from epjax.network import Network, Params, Stacked, States
from epjax.network.repeat import of_each, output_of
from epjax.shapes import Inexact, Shaped


def prediction_errors(net: Network, params: Params, x: Inexact[Array, "..."], h: States) -> States:
    """eps_k = h_k - f_k(h_{k-1}) for k = 1..L, by subtraction of states."""
    params, states = net.spread(params), (x, *h)
    errors: list[Any] = []
    for k in range(1, len(net) + 1):
        inputs = [output_of(states[j]) for j in net.sources(k)]
        run = net.unit(k) is not None
        errors.append(
            _of_run(net, params[k - 1], k, inputs[0], h[k - 1])
            if run
            else h[k - 1] - net.predict(params[k - 1], k, *inputs)
        )
    return tuple(errors)


def _of_run(net: Network, theta: Stacked, k: int, below: Array, h: Stacked) -> Stacked:
    unit = net.unit(k)
    assert unit is not None
    inputs = jnp.concatenate([below[None], h.units[-1][:-1]])
    return Stacked(lax.map(lambda at: prediction_errors(unit, *at), (theta.units, inputs, h.units)))


def half_squared_norm(errors: States, precisions: tuple[float, ...] | None = None) -> Inexact[Array, ""]:
    """1/2 sum_k pi_k || eps_k ||^2; pi_k = 1 without precisions."""
    squares = of_each(lambda e: jnp.sum(e * e), errors)
    if precisions is not None:
        squares = jnp.asarray(precisions, squares.dtype) * squares
    return 0.5 * jnp.sum(squares)


def energy(
    net: Network, params: Params, x: Inexact[Array, "..."], h: States, precisions: tuple[float, ...] | None = None
) -> Inexact[Array, ""]:
    """E(theta, x, h) = 1/2 sum_k pi_k || h_k - f_k ||^2; zero exactly at the forward pass. pi_k = 1 if not given."""
    return half_squared_norm(prediction_errors(net, params, x, h), precisions)


def total_energy(
    net: Network,
    cost: Cost,
    params: Params,
    x: Inexact[Array, "..."],
    y: Shaped[Array, "..."],
    beta: Inexact[Array, ""],
    h: States,
) -> Inexact[Array, ""]:
    """F(theta, beta, h) = E + beta C(h_L, y)."""
    return energy(net, params, x, h) + beta * cost(h[-1], y)


def projected_gradient(net: Network, F: Callable[[States], Array], h: States) -> States:
    """h_k - proj(h_k - dF/dh_k), the stationarity of F at h under the states' ranges; dF/dh_k for smooth phi_k.

    `F` is a function of the states, such as ``partial(total_energy, net, cost, params, x, y, beta)``.
    """
    gradient = jax.grad(F)(h)

    def projected(k: int, h_k: Any, g_k: Any) -> Any:
        unit = net.unit(k)
        if unit is None:
            return h_k - net.activation(k).project(h_k - g_k)
        layers = enumerate(zip(h_k.units, g_k.units, strict=True), start=1)
        return Stacked(tuple(h_j - unit.activation(j).project(h_j - g_j) for j, (h_j, g_j) in layers))

    return tuple(projected(k, h_k, g_k) for k, (h_k, g_k) in enumerate(zip(h, gradient, strict=True), start=1))
