"""Incremental predictive coding (iPC): a step of the states and a step of the parameters in turn, T times a batch.

    h = forward pass, h_L = y;  T times
        h_k <- proj(h_k - alpha / pi_k dE/dh_k)    all hidden layers at once, theta held
        theta <- optimiser(theta, dE/dtheta)       the mean over the batch, h held

T. Salvatori and others, A Stable, Fast, and Fully Automatic Learning Algorithm for Predictive Coding Networks,
arXiv:2212.00720. No gradient of a batch at one set of parameters: the optimiser is inside.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from epjax.checks import check_batch
from epjax.cost import Cost, as_target, squared_error
from epjax.network import Network, Params, States
from epjax.pc.inference import as_clamped_cost, as_pcn, check_inference
from epjax.systems.pcn import PCN
from epjax.systems.pcn.energy import energy
from epjax.systems.system import Aux

Update = Callable[[Params, Any, Array, Array], tuple[tuple[Array, Aux], Params, Any]]
"""(params, opt_state, x [B, ...], y [B] or [B, classes]) -> ((mean cost, Aux), new params, new opt_state)."""


def incremental_update(
    net: Network | PCN,
    optimiser: optax.GradientTransformation,
    cost: Cost | str = squared_error,
    *,
    steps: int = 5,
    rate: float = 0.1,
) -> Update:
    """One batch of iPC: T = `steps` of size alpha = `rate`, an update by `optimiser` after each.

    The optimiser counts T steps a batch. The cost is that of the free output, before. A step is 4 forward-equivalents.
    Raises ValueError for another cost than squared error, steps < 1, a rate outside (0, 1] and a system that is no
    predictive coding network.
    """
    system, cost = as_pcn(net, "incremental predictive coding"), as_clamped_cost(cost, "incremental predictive coding")
    check_inference(steps, rate)
    network = system.net

    def mean_energy(params: Params, x: Array, h: States) -> Array:
        return jnp.mean(jax.vmap(lambda x, h: energy(network, params, x, h, system.precisions))(x, h))

    def move(params: Params, x: Array, h: States) -> States:
        """One step of the hidden states of one example."""
        force = jax.grad(partial(energy, network, params, x, precisions=system.precisions))(h)
        weights = system.precisions or (1.0,) * len(network)
        moved = [
            network.activation(k).project(h_k - rate / pi * g)
            for k, (h_k, g, pi) in enumerate(zip(h[:-1], force[:-1], weights[:-1], strict=True), start=1)
        ]
        return (*moved, h[-1])

    def update(params: Params, opt_state: Any, x: Array, y: Array) -> tuple[tuple[Array, Aux], Params, Any]:
        x, y = check_batch(system, cost, params, x, y)
        free = jax.vmap(lambda x: network.forward(params, x))(x)
        output = free[-1]
        held = jax.vmap(lambda y: as_target(y, output.shape[1:], output.dtype))(y)
        Carry = tuple[Params, Any, States]

        def step(_: Any, carry: Carry) -> Carry:
            params, opt_state, h = carry
            h = jax.vmap(move, in_axes=(None, 0, 0))(params, x, h)
            updates, opt_state = optimiser.update(jax.grad(mean_energy)(params, x, h), opt_state, params)
            return optax.apply_updates(params, updates), opt_state, h

        params, opt_state, _ = lax.fori_loop(0, steps, step, (params, opt_state, (*free[:-1], held)))
        return (jnp.mean(jax.vmap(cost)(output, y)), Aux(output, None)), params, opt_state

    return update
