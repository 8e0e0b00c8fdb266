"""The estimator of equilibrium propagation, the same for every system: its gradient from finite nudging.

    G(beta) = dF/dtheta at the nudged state
    gradient = sum_p c_p [G(s_p beta) - G(0)] / (s_p beta)      over the phases p of a scheme (see `epjax.scheme`)

For a predictive coding network G(0) = 0 and G(beta) = - sum_k (d f_k / d theta_k)^T eps_k, h_{k-1} nudged too.
docs/method.md section 3; arXiv:2606.03584.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from epjax.checks import check_batch, warn_of_projection
from epjax.cost import Cost, as_cost
from epjax.network import Network, Params
from epjax.perturbation import MakePerturbation, as_perturbation
from epjax.scheme import Scheme, as_complex, as_scheme
from epjax.shapes import Array, Inexact, Shaped
from epjax.systems import as_equilibration, as_system, layer_by_layer, opened
from epjax.systems.sharing import settled
from epjax.systems.solution import Errors, Solution, displacement
from epjax.systems.system import Argnums, Aux, Noisy, System, ValueAndGrad

Phases = Literal["together", "sequential"]

USUAL_BETA: dict[Errors, float] = {"carried": 5e-4, "recomputed": 0.05}
"""beta where none is asked for: carried errors are nearer to the gradient the smaller it is, at the same cost, while
errors recomputed as differences of float32 states drown in rounding; 0.05 is the paper's."""


def value_and_grad(
    net: Network | System,
    cost: Cost | str,
    *,
    scheme: str | Scheme = "centered",
    points: int = 1,
    perturbation: str | MakePerturbation = "nudge",
    beta: float | Inexact[Array, ""] | Inexact[Array, " batch"] | None = None,
    guard: float | None = None,
    equilibration: Any = None,
    free: Any = None,
    errors: Errors = "carried",
    phases: Phases = "together",
    argnums: Argnums = 0,
    keep_states: bool = False,
) -> ValueAndGrad:
    """The EP estimate of the gradient of the mean cost, a pure function to be jitted.

    Returns ``f(params, x, y, key) -> ((cost, aux), grads)``; the cost is that of the free output. A `Network` is taken
    as a predictive coding network. `beta` is a number or an array, traced or not: one strength for all examples or
    one for each; None is `USUAL_BETA`, 5e-4 with carried errors and 0.05 with recomputed ones. `key` is used by the
    random scheme and by a system with noise, and may be None otherwise; keys [B] are each example's own.

    * `cost`, `scheme`, `perturbation` and `equilibration` are names, or objects: any function of one example's output
      and target, a `Scheme`, a `Nudge` or `Clamp` or the like, a `Sweep(1)` (the default for a network).
    * `points` N of the centered and the holomorphic scheme take the error of a smooth network to O(beta^(2 N)), by 2 N
      phases up to N beta strong, or by N + 1 in complex numbers, all of strength beta (see `epjax.scheme`).
    * `guard` bounds what a nudge does to the output: an example's beta is lowered to that of `guarded`.
    * `free` is how a system comes to its free state; None for a network, whose free phase is a forward pass.
    * `phases="sequential"` runs the phases one after the other, in less memory and with one more free phase each.
      Together they may share work: `signals`, `products` and `pulls` of a `Sweep`.
    * `argnums` asks for the gradient for the input as well, or instead, had like that for the parameters.
    * With `keep_states` `aux.solution` holds the nudged states and errors, [B, P, ...].

    Raises ValueError for an option outside its set, for beta that is zero, negative or not finite, and for what does
    not fit the system: a holomorphic scheme of a network with kinks, a traversal that it cannot be solved by.
    """
    if isinstance(points, bool) or not isinstance(points, int | np.integer):
        raise ValueError(f"points must be a whole number, at least 1, got {points!r}")
    system, cost, plan = as_system(net), as_cost(cost), as_scheme(scheme, int(points))
    perturb = as_perturbation(perturbation)
    for name, value, allowed in (("errors", errors, get_args(Errors)), ("phases", phases, get_args(Phases))):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    beta = USUAL_BETA[errors] if beta is None else beta
    _check_beta(beta)
    _check_guard(guard, perturbation, system)
    _check_argnums(argnums)
    if isinstance(net, Network):
        warn_of_projection(net, cost)
    method = system.default_equilibration() if equilibration is None else as_equilibration(equilibration)
    together = phases == "together" and not plan.is_complex
    if plan.is_complex or not getattr(method, "takes_runs", False):
        system = layer_by_layer(system)
    method = settled(method, len(plan.s), errors, together=together, keeps=getattr(system, "keeps", True))
    system.check(plan, method, errors)
    one_product, one_pull = (getattr(method, name, "own") == "shared" for name in ("products", "pulls"))
    system = opened(system) if one_pull else system

    def nudged(
        params: Params,
        x: Inexact[Array, "..."],
        y: Shaped[Array, "..."],
        betas: Inexact[Array, " phases"],
        key: Array | None,
    ) -> tuple[Any, Solution]:
        """The free phase of one example and its nudged states."""
        here = system.keyed(key) if isinstance(system, Noisy) and key is not None else system
        at_rest = here.free(params, x, free)
        if guard is not None:
            betas = betas * guarded(at_rest.output, cost, y, jnp.max(jnp.abs(betas)), guard)

        def phase(beta: Inexact[Array, ""]) -> Solution:
            perturbation = perturb(cost, at_rest.output, y, beta)
            found = here.nudged(params, at_rest, perturbation, method, errors)
            found = replace(found, displacement=displacement(at_rest.states, found))
            if perturbation.at_once:  # it is where it is held, whatever the system
                return found
            force = jnp.linalg.norm(perturbation.direction(at_rest.output).ravel())
            distance = jnp.linalg.norm(system.moved(at_rest, found).ravel())
            tiny = jnp.finfo(force.dtype).tiny
            return replace(found, susceptibility=distance / jnp.maximum(jnp.abs(beta) * force, tiny))

        return (at_rest.output, at_rest.states, at_rest.solution, betas), jax.vmap(phase)(betas)

    def estimate(
        params: Params,
        x: Inexact[Array, "batch ..."],
        y: Shaped[Array, "batch ..."],
        betas: Inexact[Array, "batch phases"],
        c: Inexact[Array, "batch phases"],
        keys: Array | None = None,
    ) -> tuple[Any, Solution, Any]:
        alike = isinstance(system, Noisy) and not plan.random_sign and np.ndim(beta) == 0  # a chip's phases are all's
        of_each = jax.vmap(nudged, in_axes=(None, 0, 0, None if alike else 0, 0))
        (output, states, settled, betas), solution = of_each(params, x, y, betas[0] if alike else betas, keys)
        weights = c / (betas * x.shape[0])

        def contrast(params: Params, x: Inexact[Array, "batch ..."]) -> Inexact[Array, ""]:
            assert solution.h is not None
            shared: dict[str, Any] = {"mean": c} if one_product else {}
            if one_pull:
                shared["inside"] = solution.inside
            return system.contrast(params, x, states, solution.h, solution.errors, weights, **shared)

        grads = jax.grad(contrast, argnums, holomorphic=jnp.iscomplexobj(x))(params, x)
        solution = replace(solution, inside=None)
        return (output, settled), solution if keep_states else replace(solution, h=None, errors=None), grads

    def ep(
        params: Params, x: Inexact[Array, "batch ..."], y: Shaped[Array, "batch ..."], key: Array | None = None
    ) -> tuple[tuple[Inexact[Array, ""], Aux], Params]:
        noisy = isinstance(system, Noisy) and system.noisy
        drawn_from = key if plan.random_sign or noisy else None
        _check_differentiable(argnums, x)
        x, y = check_batch(system, cost, params, x, y, beta=beta, key=drawn_from, clamped=perturbation == "clamp")
        s, c = plan.nudges(x.shape[0], key, x.dtype)
        _check_strength(beta, x.dtype, errors)
        strength = jnp.reshape(jnp.asarray(beta, x.dtype), (-1, 1))  # [1, 1], or [B, 1]
        betas = jnp.broadcast_to(strength, s.shape).astype(s.dtype) * s
        if plan.is_complex:
            params, x = as_complex((params, x))
        each = partial(estimate, keys=_noise_keys(key, x.shape[0])) if noisy else estimate
        run = each if phases == "together" or c.shape[1] == 1 else partial(_in_sequence, each)
        (output, settled), solution, grads = run(params, x, y, betas, c)
        output, grads = jax.tree.map(jnp.real, (output, grads))
        return (jnp.mean(jax.vmap(cost)(output, y)), Aux(output, solution, settled)), grads

    return ep


def exact_value_and_grad(
    net: Network | System, cost: Cost | str, *, argnums: Argnums = 0, free: Any = None
) -> ValueAndGrad:
    """The gradient of the mean cost at the free state, without EP, behind the signature of `value_and_grad`.

    For a network, which is a predictive coding network, it is that of backpropagation. `free` is how a system comes to
    its free state, as there.
    """
    _check_argnums(argnums)
    system, cost = as_system(net), as_cost(cost)
    exact = system.exact(cost, argnums, free)

    def value_and_grad(
        params: Params, x: Inexact[Array, "batch ..."], y: Shaped[Array, "batch ..."], key: Array | None = None
    ) -> tuple[tuple[Inexact[Array, ""], Aux], Params]:
        _check_differentiable(argnums, x)
        x, y = check_batch(system, cost, params, x, y)
        return exact(params, x, y, key)

    return value_and_grad


def backprop_value_and_grad(net: Network, cost: Cost | str, *, argnums: Argnums = 0) -> ValueAndGrad:
    """The gradient of the mean cost of a network's output by backpropagation, `jax.grad`, for comparison."""
    return exact_value_and_grad(net, cost, argnums=argnums)


def guarded(
    output: Inexact[Array, "..."], cost: Cost, y: Shaped[Array, "..."], beta: Inexact[Array, ""], bound: float
) -> Inexact[Array, ""]:
    """The share of beta that an example keeps: min(1, bound ||h_L|| / (beta ||dC/dh_L||)) at the free state.

    A nudge of strength beta moves the output of a predictive coding network by beta ||dC/dh_L|| to first order; the
    share keeps that below `bound` of the output's norm. `beta` is the strongest of the phases, which all keep the same
    share, at least 1e-3: an output of zero would leave nothing. (ours)
    """
    force = jnp.linalg.norm(jax.grad(cost, holomorphic=jnp.iscomplexobj(output))(output, y).ravel())
    reach = beta * force
    share = bound * jnp.linalg.norm(output.ravel()) / jnp.maximum(reach, jnp.finfo(reach.dtype).tiny)
    return lax.stop_gradient(jnp.clip(share, 1e-3, 1.0))


def _check_guard(guard: float | None, perturbation: Any, system: System) -> None:
    """Raises ValueError for a bound that is none, and where beta is no strength that may be lowered."""
    if guard is None:
        return
    if isinstance(guard, bool) or not isinstance(guard, int | float) or not 0 < guard < np.inf:
        raise ValueError(f"guard must be a positive share of the output's norm, or None, got {guard!r}")
    if perturbation != "nudge":
        raise ValueError(f"guard must be None with perturbation {perturbation!r}: it bounds a nudge by the cost")
    if isinstance(system, Noisy):
        raise ValueError(f"guard must be None on a device, whose nudge has one strength, got {guard:g}")


def _check_beta(beta: float | Array) -> None:
    if isinstance(beta, jax.core.Tracer):
        return
    values = np.asarray(beta)
    real = jnp.issubdtype(values.dtype, jnp.floating) or jnp.issubdtype(values.dtype, jnp.integer)
    if not real or values.ndim > 1 or not (np.isfinite(values) & (values > 0)).all():
        allowed = "a finite positive nudging strength, or one for each example (the scheme gives its sign)"
        raise ValueError(f"beta must be {allowed}, got {beta}")


def _check_strength(beta: float | Array, dtype: jnp.dtype, errors: Errors) -> None:
    """Raises ValueError for a beta that vanishes in `dtype`, or whose nudge does where states are measured."""
    if isinstance(beta, jax.core.Tracer):
        return
    info, least = jnp.finfo(dtype), float(np.min(np.asarray(beta)))
    smallest, why = (
        (float(info.tiny), "is not a normal number")
        if errors == "carried"
        else (1e-3 * float(info.eps), "is lost in the rounding of the states: carry the errors")
    )
    if least < smallest:
        raise ValueError(f"beta must be at least {smallest:.1e} with errors {errors!r} in {dtype}: {least:g} {why}")


def _check_argnums(argnums: Argnums) -> None:
    if argnums not in (0, 1, (0,), (1,), (0, 1), (1, 0)):
        raise ValueError(f"argnums must be 0 (the parameters), 1 (the input) or both, got {argnums!r}")


def _check_differentiable(argnums: Argnums, x: Any) -> None:
    if argnums not in (0, (0,)) and jnp.issubdtype(getattr(x, "dtype", float), jnp.integer):
        raise ValueError(f"argnums must be 0 (the parameters) where x holds indices ({x.dtype}), got {argnums!r}")


def _noise_keys(key: Array | None, batch: int) -> Array:
    """A key for each example's noise, other than those that draw signs."""
    if key is None:
        raise ValueError("key must be a jax random key for a system with noise, got None")
    return jax.vmap(lambda key: jax.random.fold_in(key, 1))(key if key.ndim else jax.random.split(key, batch))


def _in_sequence(
    estimate: Callable[..., tuple[Any, Solution, Any]],
    params: Params,
    x: Inexact[Array, "batch ..."],
    y: Shaped[Array, "batch ..."],
    betas: Inexact[Array, "batch phases"],
    c: Inexact[Array, "batch phases"],
) -> tuple[Any, Solution, Any]:
    """The phases one after the other: the second starts, with a free phase of its own, once the first is gone."""
    free, first, grads = estimate(params, x, y, betas[:, :1], c[:, :1])
    solutions = [first]
    for p in range(1, c.shape[1]):
        # A real dependence: XLA for CPU drops optimization barriers early and would merge the phases again.
        done = sum(g.ravel()[0] for g in jax.tree.leaves(grads))
        x = x + jnp.broadcast_to(0 * done, x.shape)
        _, solution, more = estimate(params, x, y, betas[:, p : p + 1], c[:, p : p + 1])
        solutions.append(solution)
        grads = jax.tree.map(jnp.add, grads, more)
    return free, jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *solutions), grads
