"""Nudged equilibria by local layer updates: even/odd ("async") and synchronous traversals, for ONE example.

    PGD      h_k <- proj(h_k - alpha (eps_k - T_k))          T_k = sum_j (d f_j / d h_k)^T eps_j
    mod-PGD  h_k <- phi(a_k + T_k)                           (alpha = 1)
    output   h_L <- a_L - beta dC/dh_L(h_L)

docs/method.md section 2; arXiv:2606.03584. Errors are carried beside the states: after a full step eps_k is
`Activation.error(a_k, T_k)`, never the difference of two nearly equal states.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
from jax import Array, lax

from epjax.network import Network
from epjax.network.activation import Update, check_update
from epjax.systems.pcn.energy import prediction_errors
from epjax.systems.pcn.linearised import Linearised, sum_signals
from epjax.systems.pcn.problem import Problem, new_error, residual
from epjax.systems.pcn.relaxation import Relaxation, beforehand, check_relaxation, resolved, share_of_the_way
from epjax.systems.solution import Errors, Solution, check_options, relative


@dataclass(frozen=True)
class Traversal:
    """Options that async and sync share. `iterations` is K, `step_size` is alpha.

    `tolerance` stops an example once an iteration changes no layer by more than tolerance * ||eps_k||, which is
    the residual met by the updates of that iteration. `residual` measures that of the state returned, in 2 more
    forward-equivalents; a tolerance implies it. `trace` records F after every iteration and what it changed.
    `unroll` iterations are laid out before the `lax.while_loop` (async unrolls the wave as well, see there).
    Raises ValueError for iterations < 1, step_size outside (0, 1], or a step_size other than 1 with mod_pgd.
    """

    iterations: int = 10
    tolerance: float | None = None
    update: Update = "mod_pgd"
    step_size: float = 1.0
    residual: bool = False
    trace: bool = False
    unroll: int = 0

    def __post_init__(self) -> None:
        check_options(self.iterations, self.tolerance, self.unroll, "iterations")
        if not 0 < self.step_size <= 1:
            raise ValueError(f"step_size must lie in (0, 1], got {self.step_size}")
        if self.update == "mod_pgd" and self.step_size != 1:
            raise ValueError(f"step_size must be 1 with update='mod_pgd', got {self.step_size}: use update='pgd'")

    def check(self, net: Network, errors: Errors) -> None:
        """Raises ValueError for an update that the network's activations do not allow."""
        check_update(self.update, tuple(layer.activation for layer in net.layers))
        if errors not in get_args(Errors):
            raise ValueError(f"errors must be one of {', '.join(get_args(Errors))}, got {errors!r}")


@dataclass(frozen=True)
class Async(Traversal):
    """One iteration updates all EVEN layers at once, then all ODD layers at once: the paper's scheme.

    Each half-step evaluates each of its drives once and one vector-Jacobian product: 2 forward-equivalents an
    iteration. To first order in beta the errors are exact after K = L iterations where they are recomputed from
    the states, and after K = L / 2 where they are carried. With `skip_unreached` the first iterations, which are
    laid out before the loop, leave out the layers that the wave from the output has not reached; the iterates
    are the same. `relaxation` is w in eps_L <- eps_L + w (target - eps_L): None is 1 for a nudge and "auto" for a
    clamp, a w found beforehand in 6 forward-equivalents (`epjax.systems.pcn.relaxation`); 1 where step_size is less.
    """

    skip_unreached: bool = True
    relaxation: Relaxation = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_relaxation(self.relaxation)
        if self.step_size != 1 and self.relaxation not in (None, 1):
            what = f"got {self.relaxation!r} and {self.step_size}"
            raise ValueError(f"relaxation must be None or 1 with a step_size below 1, which slows all layers, {what}")

    def check(self, net: Network, errors: Errors) -> None:
        """Raises for layers of one parity that feed each other; warns of layers that K leaves inexact."""
        super().check(net, errors)
        L, K = len(net), self.iterations
        for k in range(1, L + 1):
            if any(j and (k - j) % 2 == 0 for j in net.sources(k)):
                raise ValueError(
                    f"the async traversal needs layers fed by the opposite parity, but layer {k} is fed by "
                    f"{net.sources(k)}: use Sweep or Sync"
                )
        if errors == "recomputed" and K < L:
            inexact = f"the errors of layers {max(2 * K - L + 2, 1)} to {L} are not yet exact"
            warnings.warn(f"iterations={K} is less than the network's {L} layers: {inexact}", stacklevel=4)
        if errors == "carried" and 2 * K < L:
            unreached = f"layers 1 to {L - 2 * K} are not reached, their gradient is zero"
            warnings.warn(f"iterations={K} is less than half of the network's {L} layers: {unreached}", stacklevel=4)

    def share(self, problem: Problem) -> float | Array:
        """w: a number, or [] as it was found."""
        w = resolved(self.relaxation, problem.perturbation) if self.step_size == 1 else 1.0
        return beforehand(problem.free, problem.perturbation) if w == "auto" else w

    def solve(self, problem: Problem) -> Solution:
        """K even/odd iterations from the free state, or fewer by the tolerance."""
        net, perturbation, L = problem.net, problem.perturbation, len(problem.net)
        free = dict(enumerate(problem.free.layers, start=1))
        fixed = {k: free[k] for k in free if not any(net.sources(k))}  # fed by the clamped input alone
        first = start(problem)
        if perturbation.at_once:
            first.T.update(free[L].pull(first.eps[L]))
        laid_out = self.unroll
        if self.skip_unreached:
            laid_out = max(laid_out, (L + 1) // 2)
        else:
            first = with_signals(first, L)

        w = self.share(problem)

        def step(iterate: Iterate, known: Known) -> tuple[Iterate, Known]:
            iterate = replace(iterate, change=jnp.zeros_like(iterate.change))
            for parity in (0, 1):
                iterate, known = half_step(problem, self, parity, iterate, known, w)
            return iterate, known if self.skip_unreached else fixed

        return run(
            problem,
            self,
            step,
            first,
            laid_out,
            known=free if self.skip_unreached else fixed,
            known_in_loop=fixed,
        )


@dataclass(frozen=True)
class Sync(Traversal):
    """All layers at once: the control. At alpha = 1 it diverges. Its errors are differences of states by nature."""

    def solve(self, problem: Problem) -> Solution:
        """K synchronous iterations from the free state, or fewer by the tolerance."""
        net, L = problem.net, len(problem.net)

        def step(iterate: Iterate, known: Known) -> tuple[Iterate, Known]:
            h = iterate.states(problem.x)
            layers = {k: problem.linearise(k, h) for k in range(1, L + 1)}
            T = sum_signals([layers[k].pull(h[k] - net.activation(k)(layers[k].a)) for k in layers])
            T[L] = problem.perturbation.signal(h[L])
            iterate = replace(iterate, change=jnp.zeros_like(iterate.change))
            for k, layer in layers.items():
                iterate = update_layer(problem, self, k, layer.a, T[k], iterate)
            return iterate, known

        return run(replace(problem, errors="recomputed"), self, step, start(problem), self.unroll, {}, {})


Trace = tuple[Array | None, Array | None]
"""Energies [K + 1] and changes [K], where they are asked for."""


Known = dict[int, Linearised]
"""The layers whose linearisation at the current inputs is at hand."""


@partial(jax.tree_util.register_dataclass, data_fields=["h", "eps", "T", "change"], meta_fields=[])
@dataclass(frozen=True)
class Iterate:
    """h_k and eps_k of every layer; T_k of the layers that move next (absent: not reached); the largest change."""

    h: dict[int, Array]
    eps: dict[int, Array]
    T: dict[int, Array]
    change: Array

    def states(self, x: Array) -> tuple[Array, ...]:
        """(x, h_1, ..., h_L)."""
        return (x, *(self.h[k] for k in sorted(self.h)))


def start(problem: Problem) -> Iterate:
    """The free state, with the output error of a perturbation that is there at once."""
    h = dict(enumerate(problem.free.h[1:], start=1))
    eps = {k: jnp.zeros_like(h_k) for k, h_k in h.items()}
    if problem.perturbation.at_once:
        L = len(h)
        eps[L] = problem.perturbation.signal(h[L])
        h[L] = h[L] + eps[L]
    return Iterate(h, eps, {}, jnp.zeros((), problem.x.real.dtype))


def with_signals(iterate: Iterate, L: int) -> Iterate:
    """The signals to the even layers, zero where the wave has not been: a loop's carry needs them all."""
    T = {k: iterate.T.get(k, jnp.zeros_like(h_k)) for k, h_k in iterate.h.items() if k % 2 == 0 and k < L}
    return replace(iterate, T=T)


def of_this_phase(problem: Problem, iterate: Iterate) -> Iterate:
    """The same numbers, each of which depends on the example and on beta in the eyes of `jax.vmap`.

    It finds out which of a loop's numbers are mapped by tracing the body again and again, until no more are found: with
    a free state that all phases share, once for each layer that the wave reaches.
    """
    mark = jnp.real(problem.perturbation.beta * problem.free.output.ravel()[0])
    return jax.tree.map(lambda v: jnp.where(False, mark.astype(v.dtype), v), iterate)


def half_step(
    problem: Problem, options: Traversal, parity: int, iterate: Iterate, known: Known, w: float | Array = 1.0
) -> tuple[Iterate, Known]:
    """Updates the layers of `parity`, then pulls their errors down: one drive and one product a layer."""
    net, L, known, signals = problem.net, len(problem.net), dict(known), []
    h = iterate.states(problem.x)  # layers of one parity do not feed each other
    for k in (k for k in iterate.h if k % 2 == parity):
        T_k = problem.perturbation.signal(h[k]) if k == L else iterate.T.get(k)
        if T_k is None and k in known:
            continue  # neither its inputs nor its signal have moved
        layer = known[k] if k in known else problem.linearise(k, h)
        T_k = jnp.zeros_like(h[k]) if T_k is None else T_k
        iterate = update_layer(problem, options, k, layer.a, T_k, iterate, w if k == L else 1.0)
        signals.append(layer.pull(iterate.eps[k]))
        known[k] = layer
        for j in net.targets(k):
            known.pop(j, None)
    return replace(iterate, T=sum_signals(signals)), known


def update_layer(
    problem: Problem, options: Traversal, k: int, a: Array, T: Array, iterate: Iterate, w: float | Array = 1.0
) -> Iterate:
    """One step of layer k: h_k, eps_k = h_k - phi(a_k), and its change (h_k - old h_k) / alpha relative to eps_k.

    A full step goes the share w of the way to the new error; its change is that of all of the way.
    """
    activation, alpha, old = problem.net.activation(k), options.step_size, iterate.h[k]
    output = k == len(problem.net)
    p = activation(a)
    if alpha == 1 or (output and problem.perturbation.at_once):
        target = new_error(problem, options.update, k, a, T)
        full, eps = p + target, share_of_the_way(iterate.eps[k], target, w)
        h = p + eps
        if problem.errors == "recomputed":
            eps = h - p
    else:
        full = h = activation.project(old - alpha * ((old - p) - T))
        eps = h - p
    change = jnp.maximum(iterate.change, relative((full - old) / alpha, eps))
    return Iterate({**iterate.h, k: h}, {**iterate.eps, k: eps}, iterate.T, change)


def run(
    problem: Problem,
    options: Traversal,
    step: Callable[[Iterate, Known], tuple[Iterate, Known]],
    iterate: Iterate,
    laid_out: int,
    known: Known,
    known_in_loop: Known,
) -> Solution:
    """Lays the first iterations out, runs the others in a `lax.while_loop`, stops, and records.

    While iterations are laid out a linearisation survives until its inputs move; in the loop all inputs move.
    """
    L, K, tolerance = len(problem.net), options.iterations, options.tolerance
    laid_out = min(laid_out, K)

    def energy(iterate: Iterate) -> Array:
        return problem.total_energy(iterate.states(problem.x)[1:])

    def record(trace: Trace, i: int | Array, iterate: Iterate) -> Trace:
        energies, changes = trace
        if energies is None or changes is None:
            return trace
        return energies.at[i + 1].set(energy(iterate)), changes.at[i].set(iterate.change)

    trace: Trace = (None, None)
    if options.trace:
        energies = jnp.full((K + 1,), jnp.nan, problem.x.dtype).at[0].set(energy(iterate))
        trace = energies, jnp.full((K,), jnp.nan, iterate.change.dtype)
    for i in range(laid_out):
        iterate, known = step(iterate, known)
        trace = record(trace, i, iterate)

    def more(carry: tuple[Array, Iterate, Trace]) -> Array:
        i, iterate, _ = carry
        return i < K if tolerance is None else (i < K) & ((iterate.change > tolerance) | (i == 0))

    def body(carry: tuple[Array, Iterate, Trace]) -> tuple[Array, Iterate, Trace]:
        i, iterate, trace = carry
        iterate, _ = step(iterate, known_in_loop)
        return i + 1, iterate, record(trace, i, iterate)

    iterations = jnp.int32(laid_out)
    if laid_out < K:
        iterate = of_this_phase(problem, with_signals(iterate, L) if iterate.T else iterate)
        iterations, iterate, trace = lax.while_loop(more, body, (iterations, iterate, trace))
    states = iterate.states(problem.x)
    errors = tuple(iterate.eps[k] for k in sorted(iterate.eps))
    if problem.errors == "recomputed":
        errors = prediction_errors(problem.net, problem.params, problem.x, states[1:])
    measured = _residual_at(problem, options.update, states) if options.residual or tolerance is not None else None
    converged = None if tolerance is None or measured is None else measured <= tolerance
    return Solution(states[1:], errors, iterations, measured, converged, *trace)


def _residual_at(problem: Problem, update: Update, states: Sequence[Array]) -> Array:
    net = problem.net
    layers = [problem.linearise(k, states) for k in range(1, len(net) + 1)]
    errors = [states[k] - net.activation(k)(layer.a) for k, layer in enumerate(layers, start=1)]
    return residual(problem, update, states[-1], errors, layers)
