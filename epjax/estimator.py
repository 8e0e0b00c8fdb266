"""Gradient estimators: equilibrium propagation by finite nudging, and backpropagation behind the same signature.

    G(beta) = dF/dtheta = - sum_k (d f_k / d theta_k)^T eps_k   at the nudged state, h_{k-1} nudged too
    gradient = sum_p c_p G(s_p beta) / (s_p beta)               over the phases p of a scheme (see `epjax.scheme`)

docs/method.md section 3; arXiv:2606.03584.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from epjax.checks import check_batch, check_model
from epjax.cost import Cost, as_target
from epjax.network import Network, Params
from epjax.perturbation import Clamp, Nudge, Perturbation, PerturbationName
from epjax.scheme import Scheme, as_complex, check_analytic, check_scheme, nudges
from epjax.systems.pcn.problem import Equilibration, Problem, equilibrate
from epjax.systems.pcn.signals import FreePhase, free_phase
from epjax.systems.pcn.sweep import Sweep
from epjax.systems.solution import Errors, Solution

Phases = Literal["together", "sequential"]


@partial(jax.tree_util.register_dataclass, data_fields=["output", "solution"], meta_fields=[])
@dataclass(frozen=True)
class Aux:
    """What comes beside the cost: the free output [B, classes] and how the nudged phases went.

    `solution` has iterations, residual, converged [B, P] and energies [B, P, K + 1] for P phases (positive beta
    first), without the states; None for backpropagation.
    """

    output: Array
    solution: Solution | None


ValueAndGrad = Callable[[Params, Array, Array, Array | None], tuple[tuple[Array, Aux], Params]]
"""(params, x [B, ...], y [B] or [B, classes], key) -> ((mean cost, Aux), gradient of the mean cost, as params).

With `argnums` the gradient is that for x, or a tuple of both.
"""

Argnums = int | tuple[int, ...]
"""For which arguments, as in `jax.grad`: 0 the parameters, 1 the input."""


def value_and_grad(
    net: Network,
    cost: Cost,
    *,
    scheme: Scheme = "centered",
    points: int = 1,
    perturbation: PerturbationName = "nudge",
    beta: float | Array = 0.05,
    equilibration: Equilibration | None = None,
    errors: Errors = "carried",
    phases: Phases = "together",
    argnums: Argnums = 0,
    keep_states: bool = False,
) -> ValueAndGrad:
    """The EP estimate of the gradient of the mean cost, a pure function to be jitted; default: Sweep(1).

    Returns ``f(params, x, y, key) -> ((cost, aux), grads)``; the cost is that of the free output. `beta` is a number,
    or an array [] or [B], traced or not: one strength for all examples or one for each. `key` is used by the random
    scheme only and may be None otherwise; keys [B] draw each example's sign from its own.

    * `points` N of the centered and the holomorphic scheme take the error of a smooth network to O(beta^(2 N)), by 2 N
      phases up to N beta strong, or by N + 1 in complex numbers, all of strength beta (see `epjax.scheme`).
    * `phases="sequential"` runs the phases one after the other, in less memory and with one more forward pass each.
    * `argnums` asks for the gradient for the input as well, or instead: dF/dx = -T_0, had like that for the parameters.
    * With `keep_states` `aux.solution` holds the nudged states and errors, [B, P, ...].

    Raises ValueError for an option outside its set, for beta that is zero, negative or not finite, and for a
    holomorphic scheme of a network with kinks.
    """
    check_model(net, cost)
    check_scheme(scheme, points, net)
    for name, value, allowed in (
        ("perturbation", perturbation, get_args(PerturbationName)),
        ("errors", errors, get_args(Errors)),
        ("phases", phases, get_args(Phases)),
    ):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    _check_beta(beta)
    _check_argnums(argnums)
    method = Sweep(1) if equilibration is None else equilibration
    method.check(net, errors)

    def nudged(params: Params, x: Array, y: Array, betas: Array) -> tuple[Array, Solution]:
        """The free output of one example and its nudged states at betas [P]."""
        params = net.spread(params)
        free = free_phase(net, params, x)

        def phase(beta: Array) -> Solution:
            return equilibrate(Problem(net, params, free, _perturb(perturbation, cost, free, y, beta), errors), method)

        return free.output, jax.vmap(phase)(betas)

    def estimate(params: Params, x: Array, y: Array, betas: Array, c: Array) -> tuple[Array, Solution, Any]:
        output, solution = jax.vmap(nudged, in_axes=(None, 0, 0, 0))(params, x, y, betas)
        assert solution.h is not None
        assert solution.errors is not None
        weights = c / (betas * x.shape[0])
        grads = energy_gradient(net, params, x, solution.h, solution.errors, weights, argnums)
        return output, solution if keep_states else replace(solution, h=None, errors=None), grads

    def ep(params: Params, x: Array, y: Array, key: Array | None = None) -> tuple[tuple[Array, Aux], Params]:
        drawn_from = key if scheme == "random" else None
        x, y = check_batch(net, cost, params, x, y, beta=beta, key=drawn_from, clamped=perturbation == "clamp")
        s, c = nudges(scheme, points, x.shape[0], key, x.dtype)
        strength = jnp.reshape(jnp.asarray(beta, x.dtype), (-1, 1))  # [1, 1], or [B, 1]
        betas = jnp.broadcast_to(strength, s.shape).astype(s.dtype) * s
        if scheme == "holomorphic":
            params, x = as_complex((params, x))
            check_analytic(net, net.spread(params), x[0])
        run = estimate if phases == "together" or c.shape[1] == 1 else partial(_in_sequence, estimate)
        output, solution, grads = run(params, x, y, betas, c)
        output, grads = jax.tree.map(jnp.real, (output, grads))
        return (jnp.mean(jax.vmap(cost)(output, y)), Aux(output, solution)), grads

    return ep


def backprop_value_and_grad(net: Network, cost: Cost, *, argnums: Argnums = 0) -> ValueAndGrad:
    """The gradient of the mean cost of the free output by backpropagation, `jax.grad`, for comparison."""
    check_model(net, cost)
    _check_argnums(argnums)

    def bp(params: Params, x: Array, y: Array, key: Array | None = None) -> tuple[tuple[Array, Aux], Params]:
        del key
        x, y = check_batch(net, cost, params, x, y)
        both = partial(mean_cost, net, cost)
        (value, output), grads = jax.value_and_grad(both, argnums, has_aux=True)(params, x, y)
        return (value, Aux(output, None)), grads

    return bp


def mean_cost(net: Network, cost: Cost, params: Params, x: Array, y: Array) -> tuple[Array, Array]:
    """The mean over the batch of C(h_L, y) at the free state, and the free output [B, classes]: one forward pass."""
    output = jax.vmap(lambda x: net.forward(params, x)[-1])(x)
    return jnp.mean(jax.vmap(cost)(output, y)), output


def energy_gradient(
    net: Network,
    params: Params,
    x: Array,
    h: Sequence[Array],
    errors: Sequence[Array],
    weights: Array,
    argnums: Argnums = 0,
) -> Any:
    """sum_bp weights_bp dF/dtheta at nudged states:  - sum_k (d f_k / d theta_k)^T sum_bp weights_bp eps_k.

    For the input (`argnums` 1) it is dF/dx = -T_0 = - sum_k (d f_k / d x)^T eps_k over the layers that x feeds.
    x [B, ...]; h_k and eps_k [B, P, ...] for P phases; weights [B, P]. Sums over examples and phases within the
    products: no gradient of a single example's parameters is ever formed.
    """

    def surrogate(params: Params, x: Array) -> Array:
        params = net.spread(params)
        states = (x, *map(lax.stop_gradient, h))
        total = jnp.zeros((), x.dtype)
        for k, eps in enumerate(errors, start=1):
            eps = lax.stop_gradient(eps) * weights.reshape(weights.shape + (1,) * (eps.ndim - 2))
            sources = net.sources(k)
            predict = partial(net.predict, params[k - 1], k)
            if not any(sources):  # the same prediction in every phase
                eps = eps.sum(axis=1)
            else:
                predict = jax.vmap(predict, in_axes=tuple(0 if j else None for j in sources))
            f = jax.vmap(predict)(*(states[j] for j in sources))
            total -= jnp.sum(f * eps)  # not a dot product: accelerators round those
        return total

    return jax.grad(surrogate, argnums, holomorphic=jnp.iscomplexobj(x))(params, x)


def _check_beta(beta: float | Array) -> None:
    if isinstance(beta, jax.core.Tracer):
        return
    values = np.asarray(beta)
    if values.ndim > 1 or not (np.isfinite(values) & (values > 0)).all():
        allowed = "a finite positive nudging strength, or one for each example (the scheme gives its sign)"
        raise ValueError(f"beta must be {allowed}, got {beta}")


def _check_argnums(argnums: Argnums) -> None:
    if argnums not in (0, 1, (0,), (1,), (0, 1), (1, 0)):
        raise ValueError(f"argnums must be 0 (the parameters), 1 (the input) or both, got {argnums!r}")


def _perturb(name: PerturbationName, cost: Cost, free: FreePhase, y: Array, beta: Array) -> Perturbation:
    if name == "nudge":
        return Nudge(cost, y, beta)
    return Clamp(as_target(y, free.output.shape[0], free.output.dtype), free.output, beta)


def _in_sequence(
    estimate: Callable[..., tuple[Array, Solution, Any]], params: Params, x: Array, y: Array, betas: Array, c: Array
) -> tuple[Array, Solution, Any]:
    """The phases one after the other: the second starts, with a free phase of its own, once the first is gone."""
    output, first, grads = estimate(params, x, y, betas[:, :1], c[:, :1])
    solutions = [first]
    for p in range(1, c.shape[1]):
        # A real dependence: XLA for CPU drops optimization barriers early and would merge the phases again.
        done = sum(g.ravel()[0] for g in jax.tree.leaves(grads))
        x = x + jnp.broadcast_to(0 * done, x.shape)
        _, solution, more = estimate(params, x, y, betas[:, p : p + 1], c[:, p : p + 1])
        solutions.append(solution)
        grads = jax.tree.map(jnp.add, grads, more)
    return output, jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *solutions), grads
