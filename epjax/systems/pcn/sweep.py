"""Sweeps: nudged equilibria in error coordinates, one backward and one forward pass each, for ONE example.

    backward   T_L from the perturbation; for k = L-1..1:  T_k = sum_j (d f_j / d h_k)^T eps_j,  eps_k = error(a_k, T_k)
    forward    for k = 1..L:  a_k = drive_k(h_{k-1}),  eps_k = error(a_k, T_k),  h_k = phi(a_k) + eps_k

The fixed points are those of the layer updates in `epjax.systems.pcn.traversal`, reached at a cost that does not grow
with depth. docs/method.md section 5. This is not backpropagation: activities, gates and pooling are those of the
nudged state. Further sweeps converge where the output's error is relaxed enough (`epjax.systems.pcn.relaxation`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import jax
import jax.numpy as jnp
from jax import Array, lax

from epjax.network import Network, States
from epjax.network.activation import Update, check_update
from epjax.network.apart import computed_once
from epjax.network.inside import Inside
from epjax.network.repeat import layers_of, of_each
from epjax.systems.pcn.energy import half_squared_norm, prediction_errors
from epjax.systems.pcn.linearised import Error, Linearised
from epjax.systems.pcn.problem import Problem, layer_error, new_error, residual
from epjax.systems.pcn.relaxation import Output, Relaxation, check_relaxation, resolved
from epjax.systems.pcn.signals import Layers, down, sent, through
from epjax.systems.pcn.traversal import Trace
from epjax.systems.sharing import Sharing, check_sharing
from epjax.systems.solution import Errors, Solution, check_options, relative

Signals = tuple[Any, ...]
"""(T_1, ..., T_L)."""
Out = Output | None


@dataclass(frozen=True)
class Sweep:
    """`sweeps` sweeps (S), or fewer: an example stops once a sweep changes no eps_k by more than tolerance * ||eps_k||.

    The first sweep, and up to `unroll` of them, stand before the `lax.while_loop`; with one sweep there is no loop.
    `residual` measures the residual of the state that is returned, in one more backward pass; a tolerance implies it.
    `trace` records F after every sweep and what it changed. `relaxation` is w in eps_L <- eps_L + w (target - eps_L):
    None is 1 for a nudge and "auto" for a clamp, where every sweep measures the w of the next, at no cost. `signals`
    (those of the first sweep) and `products` are what the phases of a gradient share (`epjax.systems.sharing`);
    products of None are "shared" by several phases that run together and carry their errors, else "own". `pulls` are
    those of errors through the inside of a layer of several products: "shared", the pass down's (one sweep only).
    Raises ValueError for sweeps < 1, a tolerance that is not positive, a relaxation outside (0, 1], another word for
    what is shared, and shared pulls of several sweeps.
    """

    sweeps: int = 1
    tolerance: float | None = None
    update: Update = "mod_pgd"
    residual: bool = False
    trace: bool = False
    unroll: int = 1
    relaxation: Relaxation = None
    signals: Sharing = "own"
    products: Sharing | None = None
    pulls: Sharing | None = None

    takes_runs: ClassVar[bool] = True
    """A `Repeat` goes through as one, in a `lax.scan`."""

    def __post_init__(self) -> None:
        check_options(self.sweeps, self.tolerance, self.unroll, "sweeps")
        check_relaxation(self.relaxation)
        check_sharing(self.signals, self.products, self.pulls)
        if self.pulls == "shared" and self.sweeps > 1:
            raise ValueError(f"pulls must be 'own' with more than one sweep, got 'shared' with sweeps={self.sweeps}")

    def check(self, net: Network, errors: Errors) -> None:
        """Raises ValueError for an update that the network's activations do not allow."""
        check_update(self.update, tuple(layer.activation for entry in net.layers for layer in layers_of(entry)))
        if errors not in get_args(Errors):
            raise ValueError(f"errors must be one of {', '.join(get_args(Errors))}, got {errors!r}")

    def solve(self, problem: Problem) -> Solution:
        """S sweeps from the free state, or fewer by the tolerance."""
        S, tolerance = self.sweeps, self.tolerance
        measured = tolerance is not None or self.residual
        trace: Trace = (None, None)
        if self.trace:
            free = problem.perturbation.cost_term(problem.free.output)
            energies = jnp.full((S + 1,), jnp.nan, free.dtype).at[0].set(free)
            trace = energies, jnp.full((S,), jnp.nan, problem.x.real.dtype).at[0].set(1.0)  # all errors are new

        # A sweep is backward, then forward. Its signals T are all that the next one needs, so the loop carries
        # them and runs forward, then backward: the first backward and the last forward stand outside.
        (T, inside), output = self.first(problem), self.output(problem)

        def step(i: int | Array, T: Signals, output: Out, trace: Trace) -> tuple[Signals, Out, Array, Trace]:
            h, eps, layers, output = self.forward(problem, T, output)
            T, new_eps, output = self.backward(problem, h, layers, output)
            change = _change(new_eps, eps, output)
            energies, changes = trace
            changed = None if changes is None else changes.at[i].set(change)
            return T, output, change, (_record(problem, energies, i, h, eps), changed)

        change = jnp.full((), jnp.inf, problem.x.real.dtype)
        laid_out = min(max(self.unroll, 1), S)
        for i in range(1, laid_out):
            T, output, change, trace = step(i, T, output, trace)

        Carry = tuple[Array, Signals, Out, Array, Trace]

        def more(carry: Carry) -> Array:
            i, _, _, change, _ = carry
            return i < S if tolerance is None else (i < S) & (change > tolerance)

        def body(carry: Carry) -> Carry:
            i, T, output, _, trace = carry
            return i + 1, *step(i, T, output, trace)

        sweeps = jnp.int32(laid_out)
        if laid_out < S:
            sweeps, T, output, _, trace = lax.while_loop(more, body, (sweeps, T, output, change, trace))
        h, eps, layers, _ = self.forward(problem, T, output)
        F = _record(problem, trace[0], sweeps, h, eps)
        final = residual(problem, self.update, h[-1], eps, layers) if measured else None
        converged = None if tolerance is None or final is None else final <= tolerance
        if problem.errors == "recomputed":
            eps = prediction_errors(problem.net, problem.params, problem.x, h[1:])
        pulled = inside if self.pulls == "shared" else None
        return Solution(h[1:], eps, sweeps, final, converged, F, trace[1], inside=pulled)

    def output(self, problem: Problem) -> Out:
        """The output's error at the free state; None where it need not be kept, for w is 1."""
        if resolved(self.relaxation, problem.perturbation) == 1:
            return None
        L, h_L = len(problem.net), problem.free.output
        return Output.first(
            new_error(problem, self.update, L, problem.free.layers[-1].a, problem.perturbation.signal(h_L))
        )

    def relaxed(self, problem: Problem, output: Out, target: Array) -> tuple[Array, Out]:
        """eps_L and what is kept of it, once its target has moved."""
        if output is None:
            return target, None
        output = output.towards(target, resolved(self.relaxation, problem.perturbation))
        return output.eps, output

    def first(self, problem: Problem) -> tuple[Signals, tuple[Inside, ...]]:
        """The signals of `backward` at the free state: from layer m up beta times those of beta = 1.

        And what the error of each layer leaves inside it there, where it was opened (`epjax.network.inside`).

        Where no layer from m to L projects, eps_k = T_k there, and T is linear in beta. With shared signals m is 1:
        the free state's gates hold on the way down, and errors meet their own phase's on the way up. A unit is then
        told nothing by units that only its nudged phase opens or shuts, in this sweep; the next sweep tells it. Under
        a vmap over phases the signals of beta = 1 are the same for all of them and go down once.
        """
        net, layers, nudge = problem.net, problem.free.layers, problem.perturbation
        L = len(net)
        kink = next((k for k in range(L, 0, -1) if _projects(net, k)), 0)
        m = 1 if self.signals == "shared" else kink + 1
        T: dict[int, Any] = {L: nudge.direction(problem.free.output)}
        inside: dict[int, Any] = {}
        for k in range(L, m - 1, -1):
            T, _, inside[k] = sent(layers[k - 1], k, T, lambda activation, a, T_k: T_k)
        T = jax.tree.map(lambda T_k: nudge.beta * T_k, T)
        for k in range(m - 1, 0, -1):
            T, _, inside[k] = sent(layers[k - 1], k, T, self.error(problem, k))
        order, one = range(1, L + 1), jnp.ones_like(nudge.beta)
        left = (Inside(inside[k], nudge.beta if k >= m else one, alike=k >= m) for k in order)
        return tuple(T[k] for k in order), tuple(left)

    def error(self, problem: Problem, k: int) -> Error:
        """What a full step of layer k leaves."""
        if k < len(problem.net):
            return layer_error(self.update)
        return lambda activation, a, T: problem.perturbation.error(activation, a, T, self.update)

    def backward(
        self, problem: Problem, h: Sequence[Any], layers: Layers, output: Out = None
    ) -> tuple[Signals, States, Out]:
        """(T_1..T_L) and the errors they leave, at the states h = (x, h_1, ..., h_L) linearised in `layers`.

        The target of a nudged output moves here, with its signal.
        """
        L, perturbation = len(problem.net), problem.perturbation
        signal, last = perturbation.signal(h[L]), layers[-1]
        assert isinstance(last, Linearised)
        eps_L = new_error(problem, self.update, L, last.a, signal)
        if output is not None and perturbation.at_once:
            eps_L = output.eps
        else:
            eps_L, output = self.relaxed(problem, output, eps_L)
        T, eps, *_ = down(layers[:-1], last.pull(eps_L), layer_error(self.update))
        return (*T, signal), (*eps, eps_L), output

    def forward(self, problem: Problem, T: Signals, output: Out = None) -> tuple[States, States, Layers, Out]:
        """(x, h_1, ..., h_L), (eps_1, ..., eps_L) and the linearised layers, from the bottom up under the signals T.

        The target of a clamped output moves here, with its drive.
        """
        net = problem.net
        h: list[Any] = [problem.x]
        eps: list[Any] = []
        layers: list[Any] = []
        for k in range(1, len(net) + 1):
            if net.unit(k) is not None:
                states, errors, run = through(net, problem.params[k - 1], k, h, T[k - 1], layer_error(self.update))
                h, eps, layers = [*h, states], [*eps, errors], [*layers, run]
                continue
            clamped = not any(net.sources(k))
            layers.append(problem.free.layers[k - 1] if clamped else problem.linearise(k, h))
            eps.append(new_error(problem, self.update, k, layers[-1].a, T[k - 1]))
            if k == len(net) and output is not None and not problem.perturbation.at_once:
                eps[-1] = output.eps
            elif k == len(net):
                eps[-1], output = self.relaxed(problem, output, eps[-1])
            h_k = net.activation(k)(layers[-1].a) + eps[-1]
            h.append(computed_once(h_k, problem.params))
        return tuple(h), tuple(eps), tuple(layers), output


def _projects(net: Network, k: int) -> bool:
    """Whether some layer of entry k does."""
    unit = net.unit(k)
    return net.activation(k).projects if unit is None else any(layer.activation.projects for layer in unit.layers)


def _change(new: Sequence[Any], eps: Sequence[Any], output: Out) -> Array:
    """Of a relaxed output what was left to go, not the share that it went."""
    moved = of_each(lambda n, e: relative(n - e, e), new, eps)
    return jnp.max(moved if output is None else jnp.append(moved, relative(output.left, output.eps)))


def _record(problem: Problem, energies: Array | None, i: int | Array, h: Sequence[Any], eps: States) -> Array | None:
    if energies is None:
        return None
    return energies.at[i].set(half_squared_norm(eps, problem.precisions) + problem.perturbation.cost_term(h[-1]))
