"""A predictive coding network as a system: E = 1/2 sum_k || h_k - f_k ||^2, free phase a forward pass, G(0) = 0."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from epjax.cost import Cost
from epjax.network import Network, Params, Stacked, States, unrolled
from epjax.network.inside import Inside, Left, Pulls, told
from epjax.network.kinks import crossed, switches
from epjax.network.products import at_mean_states, mean_over, over_phases
from epjax.network.repeat import Repeat, output_of
from epjax.perturbation import Perturbation, Weighed
from epjax.scheme import Scheme
from epjax.shapes import InputShape
from epjax.systems.pcn.analytic import check_analytic, check_smooth
from epjax.systems.pcn.linearised import Precisions
from epjax.systems.pcn.problem import Equilibration, Problem, equilibrate
from epjax.systems.pcn.relaxation import chi
from epjax.systems.pcn.signals import FreePhase, free_phase
from epjax.systems.pcn.sweep import Sweep
from epjax.systems.solution import Errors, Solution
from epjax.systems.system import Argnums, Aux, ValueAndGrad


@dataclass(frozen=True)
class PCN:
    """`net` with the energy of predictive coding, E = 1/2 sum_k pi_k || h_k - f_k ||^2.

    `precisions` are (pi_1, ..., pi_L), the inverse variances of the layers' states (Whittington and Bogacz, Neural
    Computation 29, 2017), not to be confused with the precision of products; None: all are 1. With them
    T_k = 1/pi_k sum_j (d f_j / d h_k)^T pi_j eps_j, and layer k's gradient is - pi_k (d f_k / d theta_k)^T eps_k.
    As beta goes to 0 a nudge still gives backpropagation's gradient, whatever they are. Raises ValueError unless they
    are one positive number a layer; with them a `Repeat` is laid out. Where it is `opened` the free phase lets errors
    be pulled to the inside of layers (`epjax.network.inside`).
    """

    net: Network
    precisions: Precisions | None = None
    opened: bool = False

    def __post_init__(self) -> None:
        if self.precisions is None:
            return
        object.__setattr__(self, "net", unrolled(self.net))
        object.__setattr__(self, "precisions", tuple(map(float, self.precisions)))
        if len(self.precisions) != len(self.net) or not all(0 < pi < float("inf") for pi in self.precisions):
            allowed = f"one positive number for each of {len(self.net)} layers"
            raise ValueError(f"precisions must be {allowed}, got {self.precisions}")

    def init(self, key: Array, input_shape: InputShape) -> Params:
        """The network's parameters."""
        return self.net.init(key, input_shape)

    def check(self, scheme: Scheme, equilibration: Equilibration, errors: Errors) -> None:
        """Raises ValueError for complex strengths in a network with kinks, and where the traversal does not fit."""
        if not callable(getattr(equilibration, "solve", None)):
            allowed = "Sweep, Async, Sync or an object with check and solve"
            raise ValueError(f"equilibration of a predictive coding network must be {allowed}, got {equilibration!r}")
        if scheme.is_complex:
            check_smooth(self.net)
        equilibration.check(self.net, errors)

    def examine(self, params: Params, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        """The network's output. Raises ValueError as `Network.init` does."""
        return self.net.check(params, x)

    def as_input(self, params: Params, x: Any) -> Any:
        """Indices as floating numbers, where the network takes indices."""
        return self.net.as_input(params, x)

    def by_layer(self, params: Params) -> Params:
        """One entry a layer, each parameter once."""
        return self.net.by_layer(params)

    def check_values(self, params: Params, x: Any) -> None:
        """All are allowed."""

    @property
    def keeps(self) -> bool:
        """Whether a pass up keeps all that it computed: no `Repeat` has a `checkpoint`."""
        return all(entry.checkpoint is False for entry in self.net.layers if isinstance(entry, Repeat))

    @property
    def input_range(self) -> None:
        """Anywhere."""
        return None

    def default_equilibration(self) -> Equilibration:
        """One sweep."""
        return Sweep(1)

    def default_free(self) -> None:
        """Nothing: the free phase is a forward pass."""
        return None

    def free(self, params: Params, x: Array, method: Any = None) -> FreePhase:
        """A forward pass. Raises ValueError for a `method`: there is nothing to iterate. Complex x must be analytic."""
        _check_nothing(method)
        params = self.net.spread(params)
        if jnp.iscomplexobj(x):
            check_analytic(self.net, params, x)
        return free_phase(self.net, params, x, self.precisions, open=self.opened)

    def nudged(
        self, params: Params, free: FreePhase, perturbation: Perturbation, method: Equilibration, errors: Errors
    ) -> Solution:
        """The nudged equilibrium by sweeps or layer updates."""
        if self.precisions is not None:
            perturbation = Weighed(perturbation, self.precisions[-1])
        return equilibrate(Problem(self.net, self.net.spread(params), free, perturbation, errors), method)

    def moved(self, free: FreePhase, nudged: Solution) -> Array:
        """h_L^beta - h_L^free."""
        assert nudged.h is not None
        return nudged.h[-1] - free.output

    def answer(self, params: Params, free: FreePhase, force: Array) -> Array:
        """chi force = sum_k J_k J_k^T force / pi_k, J_k from an error of layer k to the output; gates held."""
        del params  # the free phase has its layers linearised
        activations = [self.net.activation(k) for k in range(1, len(self.net) + 1)]
        gates = tuple(
            jax.jvp(phi, (layer.a,), (jnp.ones_like(layer.a),))[1] if phi.projects else None
            for phi, layer in zip(activations, free.layers, strict=True)
        )
        moved = chi(free, gates)(force)
        return moved if self.precisions is None else moved / self.precisions[-1]

    def crossings(self, params: Params, x: Array, free: States, nudged: States) -> Array:
        """Gates of the activations, and what the drives compare."""
        net, params = self.net, self.net.spread(params)

        def at(k: int, h: tuple[Array, ...]) -> list[Array]:
            found = switches(partial(net.drive, params[k - 1], k), *(h[j] for j in net.sources(k)))
            if not net.activation(k).projects:
                return found
            lo, hi = net.activation(k).bounds or (0.0, 0.0)
            return [*found, (h[k] > lo) & (h[k] < hi)]

        return crossed(len(net), at, (x, *free), (x, *(jnp.real(h_k) for h_k in nudged)))

    def jumped(self, displacements: States) -> Array:
        """Never: what is reached is the equilibrium that the free one moves to."""
        del displacements
        return jnp.zeros((), bool)

    def contrast(
        self,
        params: Params,
        x: Array,
        free: States,
        nudged: States,
        errors: States | None,
        weights: Array,
        mean: Array | None = None,
        inside: tuple[Inside, ...] | None = None,
    ) -> Array:
        """- sum_k pi_k f_k . sum_bp weights_bp eps_k, f_k at the nudged states: its gradient is the energy's there.

        For the input it is dF/dx = -T_0 = - sum_k (d f_k / d x)^T eps_k over the layers that x feeds. G(0) = 0.
        With `mean` [B, P] a product's gradient is taken once, at sum_p mean_bp h_k (see `epjax.network.products`).
        With `inside` a layer that was opened takes its gradient from what its error left there.
        """
        del free
        assert errors is not None
        net, params = self.net, self.net.spread(params)
        states = (x, *lax.stop_gradient(nudged))
        total = jnp.zeros((), x.dtype)
        for k, eps in enumerate(errors, start=1):
            if net.unit(k) is not None:
                within = None if inside is None else inside[k - 1]
                total -= _told_run(net, params[k - 1], k, states, eps, weights, mean, within)
                continue
            sources = net.sources(k)
            inputs = [output_of(states[j], 2) for j in sources]
            if inside is not None and inside[k - 1].pulls:
                at_k = _told_inside(net, params[k - 1], k, inputs, inside[k - 1], weights, mean)
                total -= at_k if self.precisions is None else self.precisions[k - 1] * at_k
                continue
            eps = _weighed(eps, weights)
            if any(sources):
                f = _in_each_phase(net, params[k - 1], k, inputs, mean)
            else:  # the same prediction in every phase
                eps = over_phases(eps, 1)
                f = jax.vmap(partial(net.predict, params[k - 1], k))(*inputs)
            eps = eps if self.precisions is None else self.precisions[k - 1] * eps
            total -= jnp.sum(f * eps)  # not a dot product: accelerators round those
        return total

    def exact(self, cost: Cost, argnums: Argnums = 0, free: Any = None) -> ValueAndGrad:
        """Backpropagation, `jax.grad`. Raises ValueError for `free`: there is nothing to iterate."""
        _check_nothing(free)

        def bp(params: Params, x: Array, y: Array, key: Array | None = None) -> tuple[tuple[Array, Aux], Params]:
            del key
            both = partial(mean_cost, self.net, cost)
            (value, output), grads = jax.value_and_grad(both, argnums, has_aux=True)(params, x, y)
            return (value, Aux(output, None)), grads

        return bp

    def project(self, params: Params) -> Params:
        """All parameters are allowed."""
        return params


def _check_nothing(free: Any) -> None:
    if free is not None:
        raise ValueError(f"free must be None for a predictive coding network, which needs one pass, got {free!r}")


def _weighed(eps: Array, weights: Array) -> Array:
    return lax.stop_gradient(eps) * weights.reshape(weights.shape + (1,) * (eps.ndim - 2))


def _told_run(
    net: Network,
    theta: Stacked,
    k: int,
    states: States,
    errors: Stacked,
    weights: Array,
    mean: Array | None,
    inside: Inside | None,
) -> Array:
    """sum f_i . sum_bp weights_bp eps_i over the layers of the run of entry k, one unit at a time.

    Nothing of a unit's forward pass is kept but what goes in: its derivative comes right after it.
    """
    unit, (source,) = net.unit(k), net.sources(k)
    assert unit is not None
    below = output_of(states[source], 2)
    if source == 0:
        below = jnp.broadcast_to(below[:, None], (*weights.shape, *below.shape[1:]))
    pulled: Any = (Left((), ()),) * len(errors.units)
    if inside is not None:
        pulled = jax.tree.map(lambda c: c[:, :1] if inside.alike else c, inside.pulls.units)
    h, eps, pulled = jax.tree.map(lambda v: jnp.moveaxis(v, 2, 0), (states[k].units, errors.units, pulled))
    n = len(h[-1])

    def of_unit(i: Array, theta: Params, h_i: States, eps_i: States, pulled_i: States) -> Array:
        under = lax.dynamic_index_in_dim(h[-1], jnp.maximum(i - 1, 0), keepdims=False)
        inner, theta = (jnp.where(i == 0, below, under), *h_i), unit.spread(theta)
        total = jnp.zeros((), weights.dtype)
        for j, (eps, pulls) in enumerate(zip(eps_i, pulled_i, strict=True), start=1):
            inputs = [inner[s] for s in unit.sources(j)]
            if pulls and inside is not None:
                here = replace(inside, pulls=pulls)
                total += _told_inside(unit, theta[j - 1], j, inputs, here, weights, mean, clamped=False)
                continue
            f = _in_each_phase(unit, theta[j - 1], j, inputs, mean, clamped=False)
            total += jnp.sum(f * _weighed(eps, weights))
        return total

    def step(total: Array, at: Any) -> tuple[Array, None]:
        return total + jax.checkpoint(of_unit, prevent_cse=False)(*at), None

    total, _ = lax.scan(step, jnp.zeros((), weights.dtype), (jnp.arange(n), theta.units, h, eps, pulled))
    return total


def _in_each_phase(
    net: Network, theta_k: Any, k: int, inputs: list[Array], mean: Array | None, *, clamped: bool = True
) -> Array:
    """f_k [B, P, ...] from inputs [B, P, ...], of the clamped input [B, ...]."""
    axes = tuple(None if j == 0 and clamped else 0 for j in net.sources(k))

    def predict(theta_k: Any, *inputs: Array) -> Array:
        return net.predict(theta_k, k, *inputs)

    if mean is None:
        return jax.vmap(jax.vmap(partial(predict, theta_k), in_axes=axes))(*inputs)

    def phase(c: Array, *inputs: Array) -> Array:
        return at_mean_states(predict, c, "phases", theta_k, *inputs)

    return jax.vmap(jax.vmap(phase, in_axes=(0, *axes), axis_name="phases"))(mean, *inputs)


def _told_inside(
    net: Network,
    theta_k: Any,
    k: int,
    inputs: list[Array],
    inside: Inside,
    weights: Array,
    mean: Array | None,
    *,
    clamped: bool = True,
) -> Array:
    """sum_bp weights_bp f_k . eps_k as far as theta_k goes, from what eps_k left inside layer k [B, P, ...]."""
    axes = tuple(None if j == 0 and clamped else 0 for j in net.sources(k))
    once, coefficients = mean is not None, weights if mean is None else mean

    def drive(theta_k: Any, *inputs: Array) -> Array:
        return net.drive(theta_k, k, *inputs)

    def phase(c: Array, forces: Pulls, *inputs: Array) -> Array:
        of = mean_over(c, "phases", theta_k) if once else lambda u: u
        return told(drive, forces, of, theta_k, *inputs)

    phases = jax.vmap(phase, (0, None if once else 0, *axes), None if once else 0, axis_name="phases")
    return jnp.sum(jax.vmap(phases)(coefficients, inside.told(weights, once=once), *inputs))


def mean_cost(net: Network, cost: Cost, params: Params, x: Array, y: Array) -> tuple[Array, Array]:
    """The mean over the batch of C(h_L, y) at the free state, and the free output [B, classes]: one forward pass."""
    output = jax.vmap(lambda x: net.output(params, x))(x)
    return jnp.mean(jax.vmap(cost)(output, y)), output
