"""The nudged phase of ONE example as a problem, ways to solve it, and how far a state is from its solution."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from epjax.network import Network, Params, States
from epjax.network.activation import Activation, Update
from epjax.network.repeat import of_each
from epjax.perturbation import Perturbation
from epjax.systems.pcn.energy import half_squared_norm, prediction_errors
from epjax.systems.pcn.linearised import Error, Linearised, Precisions, linearise, sum_signals
from epjax.systems.pcn.signals import FreePhase, Layers, down
from epjax.systems.solution import Errors, Solution, check_tolerance, relative


@dataclass(frozen=True)
class Problem:
    """One example's nudged phase: find the stationary point of F, starting from the free one."""

    net: Network
    params: Params
    free: FreePhase
    perturbation: Perturbation
    errors: Errors = "carried"

    @property
    def precisions(self) -> Precisions | None:
        """pi_k of every layer; None: 1."""
        return self.free.precisions

    @property
    def x(self) -> Array:
        """The clamped input h_0."""
        return self.free.h[0]

    def linearise(self, k: int, h: Sequence[Array]) -> Linearised:
        """Layer k at the inputs in h = (x, h_1, ..., h_L)."""
        return linearise(self.net, self.params, k, h, self.precisions)

    def total_energy(self, h: States) -> Array:
        """F at h, from recomputed errors."""
        errors = prediction_errors(self.net, self.params, self.x, h)
        return half_squared_norm(errors, self.precisions) + self.perturbation.cost_term(h[-1])


class Equilibration(Protocol):
    """A way from the free state to the nudged one, with what it costs and when it stops."""

    @property
    def tolerance(self) -> float | None:
        """The residual at which an example stops, or None to run every iteration."""
        ...

    def check(self, net: Network, errors: Errors) -> None:
        """Raises ValueError where the method does not fit the network, warns where it is not exact."""
        ...

    def solve(self, problem: Problem) -> Solution:
        """The nudged state of one example."""
        ...


def equilibrate(problem: Problem, method: Equilibration) -> Solution:
    """Solves `problem` by `method` after checking that they fit (see `Equilibration.check`)."""
    method.check(problem.net, problem.errors)
    check_tolerance(method.tolerance, problem.x.dtype)
    return method.solve(problem)


def residual(problem: Problem, update: Update, h_L: Array, errors: Sequence[Any], layers: Layers) -> Array:
    """max_k ||r_k|| / ||eps_k|| with r_k = eps_k - error(a_k, T_k), T_k from `errors` at the state of `layers`.

    The largest number of its dtype where some eps_k vanishes and r_k does not; infinite or NaN only where an r_k is.
    """
    L, signal, output = len(errors), problem.perturbation.signal(h_L), layers[-1]
    assert isinstance(output, Linearised)
    T = sum_signals([{L: signal}, output.pull(errors[-1])])
    below = down(layers[:-1], T, layer_error(update), errors[:-1])[1]
    new = (*below, new_error(problem, update, L, output.a, signal))
    r = [jax.tree.map(jnp.subtract, eps, error) for eps, error in zip(errors, new, strict=True)]
    worst = jnp.max(of_each(relative, r, errors))
    sound = jnp.all(jnp.stack([jnp.all(jnp.isfinite(r_k)) for r_k in jax.tree.leaves(r)]))
    return jnp.where(sound, jnp.minimum(worst, jnp.finfo(worst.dtype).max), worst)


def layer_error(update: Update) -> Error:
    """eps_k after a full step (alpha = 1) of a layer below the output, or of every layer of a run."""

    def error(activation: Activation, a: Array, T: Array) -> Array:
        return activation.error(a, T, update)

    return error


def new_error(problem: Problem, update: Update, k: int, a: Array, T: Array) -> Array:
    """eps_k after a full step (alpha = 1) of layer k under the signal T_k."""
    activation = problem.net.activation(k)
    if k == len(problem.net):
        return problem.perturbation.error(activation, a, T, update)
    return activation.error(a, T, update)
