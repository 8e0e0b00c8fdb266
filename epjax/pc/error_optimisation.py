"""Error optimisation (ePC): the errors are the variables, gradient steps go through the network.

    h_k = f_k(h_{k-1}) + eps_k  (k < L)      F(eps) = 1/2 sum_{k<L} pi_k || eps_k ||^2 + C(f_L(h_{L-1}), y)
    eps = 0; T times                         eps <- eps - alpha dF/deps
    gradient        - sum_{k<L} pi_k (d f_k / d theta_k)^T eps_k + (d f_L / d theta_L)^T dC/df_L    at the states h

C. Goemaere and others, ePC: Fast and Deep Predictive Coding for Digital Hardware, arXiv:2505.20137. One small step from
eps = 0 gives backpropagation's direction in every layer, alpha times as long below the last. With squared error and
smooth activations it comes to rest where inference learning does. The states are not projected: with ReLU they may be
negative, and the two differ. Inference learning's output weighs pi_L, here the cost weighs 1.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from epjax.checks import check_batch
from epjax.cost import Cost, as_cost, squared_error
from epjax.network import Network, Params, States
from epjax.pc.inference import as_pcn, check_inference
from epjax.systems.pcn import PCN
from epjax.systems.pcn.energy import half_squared_norm
from epjax.systems.solution import Solution, relative
from epjax.systems.system import Argnums, Aux, ValueAndGrad


def error_optimisation_value_and_grad(
    net: Network | PCN,
    cost: Cost | str = squared_error,
    *,
    steps: int = 5,
    rate: float = 0.1,
    argnums: Argnums = 0,
) -> ValueAndGrad:
    """``f(params, x, y, key) -> ((cost, aux), grads)`` of ePC with T = `steps` of size alpha = `rate`; key is not used.

    The cost is that of the free output; `aux.solution` has the residual, the worst layer's ||dF/deps_k|| / ||eps_k||.
    A step is 2 forward-equivalents, a gradient 2 T + 4. Raises ValueError for steps < 1, a rate outside (0, 1] and a
    system that is no predictive coding network.
    """
    system, cost = as_pcn(net, "error optimisation"), as_cost(cost)
    check_inference(steps, rate)

    def infer(params: Params, x: Array, y: Array) -> tuple[Array, States, States, Solution]:
        """The free output of one example, its states and errors at rest, and how far from rest they are."""
        free = system.net.forward(params, x)
        force = jax.grad(partial(_energy, system, cost, params, x, y))

        def step(_: Any, eps: States) -> States:
            return jax.tree.map(lambda e, g: e - rate * g, eps, force(eps))

        eps = lax.fori_loop(0, steps, step, tuple(jnp.zeros_like(h_k) for h_k in free[:-1]))
        left = [relative(g, e) for g, e in zip(force(eps), eps, strict=True)]
        residual = jnp.max(jnp.stack(left)) if left else jnp.zeros((), x.dtype)
        h = _states(system.net, params, x, eps)
        last = -jax.grad(cost)(h[-1], y)
        if system.precisions is not None:
            last = last / system.precisions[-1]  # `contrast` multiplies by it
        return free[-1], h, (*eps, last), Solution(None, None, jnp.int32(steps), residual, None, None)

    def gradient(params: Params, x: Array, y: Array, key: Array | None = None) -> tuple[tuple[Array, Aux], Params]:
        del key
        x, y = check_batch(system, cost, params, x, y)
        output, h, eps, solution = jax.vmap(infer, in_axes=(None, 0, 0))(params, x, y)
        one_phase = partial(jax.tree.map, lambda v: v[:, None])
        h, eps, solution = one_phase(h), one_phase(eps), one_phase(solution)
        weights = jnp.full((x.shape[0], 1), 1 / x.shape[0], x.dtype)

        def contrast(params: Params, x: Array) -> Array:
            return system.contrast(params, x, h, h, eps, weights)

        grads = jax.grad(contrast, argnums)(params, x)
        return (jnp.mean(jax.vmap(cost)(output, y)), Aux(output, solution)), grads

    return gradient


def _states(net: Network, params: Params, x: Array, eps: States) -> States:
    """(h_1, ..., h_L) of one example with the errors eps_1..eps_{L-1}; h_L = f_L."""
    params, h = net.spread(params), [x]
    for k in range(1, len(net) + 1):
        f = net.predict(params[k - 1], k, *(h[j] for j in net.sources(k)))
        h.append(f + eps[k - 1] if k < len(net) else f)
    return tuple(h[1:])


def _energy(system: PCN, cost: Cost, params: Params, x: Array, y: Array, eps: States) -> Array:
    """F(eps) of one example."""
    precisions = None if system.precisions is None else system.precisions[:-1]
    value = cost(_states(system.net, params, x, eps)[-1], y)
    return half_squared_norm(eps, precisions) + value if eps else value
