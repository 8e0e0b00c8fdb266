"""Layers linearised: what errors of a layer tell the layers that feed it, for ONE example."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from epjax.network import Network, Params
from epjax.network.activation import Activation
from epjax.network.inside import Left, Pulls, meetings, opened
from epjax.network.repeat import output_of

Precisions = tuple[float, ...]
"""(pi_1, ..., pi_L): how much an error of each layer weighs in the energy."""

Kept = Callable[[Callable[..., Array]], Callable[..., Array]]
"""A function to the same function that keeps other things for its derivative (`epjax.Repeat.kept`)."""

Error = Callable[[Activation, Array, Array], Array]
"""(phi_k, a_k, T_k) -> eps_k."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["a", "pull_drive", "pull_phi"],
    meta_fields=["activation", "sources", "weights"],
)
@dataclass(frozen=True)
class Linearised:
    """A layer at its current inputs: a_k and its vector-Jacobian product, evaluated once and used until they move.

    `weights` are pi_k / pi_j of the layers j that are told of its errors: 1 but for precisions. A layer that was opened
    (`epjax.network.inside`) pulls errors to its inside as well.
    """

    a: Array
    pull_drive: Callable[[Array], tuple[Array, ...]]
    pull_phi: Callable[[Array], tuple[Array]]
    activation: Activation
    sources: tuple[int, ...]
    weights: tuple[tuple[int, float | None], ...]

    def pulled(self, eps: Array) -> tuple[dict[int, Array], Left]:
        """eps_k -> what `pull` says, and (c_1, ..., c_n) inside the layer, empty unless it was opened."""
        told = self.pull_drive(*self.pull_phi(eps))
        weights, n = dict(self.weights), len(self.sources)
        signals = sum_signals([{j: T_j} for j, T_j in zip(self.sources, told[:n], strict=True) if j in weights])
        return {j: T_j if weights[j] is None else weights[j] * T_j for j, T_j in signals.items()}, Left.of(
            tuple(told[n:])
        )

    def pull(self, eps: Array) -> dict[int, Array]:
        """eps_k -> {j: pi_k / pi_j (d f_k / d h_j)^T eps_k} for the layers j that feed layer k and are told."""
        return self.pulled(eps)[0]

    def down(self, T: Array, error: Error, held: Array | None = None) -> tuple[Array, Array, dict[int, Array], Left]:
        """T_k, the error that it leaves, and what this one sends on and leaves inside, or the error that is `held`."""
        eps = error(self.activation, self.a, T)
        return T, eps, *self.pulled(eps if held is None else held)


def linearise(
    net: Network,
    params: Params,
    k: int,
    h: Sequence[Any],
    precisions: Precisions | None = None,
    *,
    tell_input: bool = False,
    kept: Kept = lambda f: f,
    open: bool = False,
) -> Linearised:
    """a_k and the pull-back of f_k = phi_k(drive_k) at the inputs in h = (x, h_1, ..., h_L).

    The input is clamped and told nothing, unless `tell_input`. `kept` makes of a drive one that keeps less for it.
    `open` lets it pull errors to its inside, if its error is its signal (nothing projects) and no input is x itself.
    """
    sources, activation = net.sources(k), net.activation(k)
    inputs = tuple(output_of(h[j]) for j in sources)
    drive: Callable[..., Array] = partial(net.drive, params[k - 1], k)
    shifts: Pulls = ()
    if open and not activation.projects and (tell_input or 0 not in sources):
        drive, shifts = _opened(net, params[k - 1], k, inputs)
    a, pull_drive = jax.vjp(kept(drive), *inputs, *shifts)
    _, pull_phi = jax.vjp(activation, a)
    told = dict.fromkeys(j for j in sources if j or tell_input)
    weights = tuple((j, None if precisions is None else precisions[k - 1] / precisions[j - 1]) for j in told)
    return Linearised(a, pull_drive, pull_phi, activation, sources, weights)


def _opened(net: Network, theta: Any, k: int, inputs: tuple[Array, ...]) -> tuple[Callable[..., Array], Pulls]:
    """The drive with shifts inside, and these, zero; without any where there is nothing to pull."""

    def drive(theta: Any, *inputs: Array) -> Array:
        return net.drive(theta, k, *inputs)

    shifts = tuple(jnp.zeros(v.shape, v.dtype) for v in meetings(drive, theta, *inputs))
    n = len(inputs)
    return (lambda *given: opened(drive, theta, given[:n], given[n:]) if shifts else drive(theta, *given)), shifts


def sum_signals(signals: Sequence[dict[int, Any]]) -> dict[int, Any]:
    """Adds signals to the same layer."""
    total: dict[int, Any] = {}
    for signal in signals:
        for j, T_j in signal.items():
            total[j] = total[j] + T_j if j in total else T_j
    return total
