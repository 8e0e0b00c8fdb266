"""Layers linearised, and the signals T_k that their errors send down; the free phase of ONE example."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
from jax import Array

from epjax.network import Network, Params, States

Precisions = tuple[float, ...]
"""(pi_1, ..., pi_L): how much an error of each layer weighs in the energy."""

Pull = Callable[[Array], dict[int, Array]]
"""eps_k -> {j: pi_k / pi_j (d f_k / d h_j)^T eps_k} for the layers j >= 1 that feed layer k; usually every pi is 1."""


@dataclass(frozen=True)
class Linearised:
    """A layer at its current inputs: a_k and its vector-Jacobian product, evaluated once and used until they move."""

    a: Array
    pull: Pull


def linearise(
    net: Network, params: Params, k: int, h: Sequence[Array], precisions: Precisions | None = None
) -> Linearised:
    """a_k and the pull-back of f_k = phi_k(drive_k) at the inputs in h = (x, h_1, ..., h_L)."""
    sources = net.sources(k)
    a, pull_drive = jax.vjp(partial(net.drive, params[k - 1], k), *(h[j] for j in sources))
    _, pull_phi = jax.vjp(net.activation(k), a)

    def pull(eps: Array) -> dict[int, Array]:
        return sum_signals([dict([pair]) for pair in zip(sources, pull_drive(*pull_phi(eps)), strict=True) if pair[0]])

    def weighted(eps: Array) -> dict[int, Array]:
        assert precisions is not None
        return {j: precisions[k - 1] / precisions[j - 1] * T_j for j, T_j in pull(eps).items()}

    return Linearised(a, pull if precisions is None else weighted)


def sum_signals(signals: Sequence[dict[int, Array]]) -> dict[int, Array]:
    """Adds signals to the same layer."""
    total: dict[int, Array] = {}
    for signal in signals:
        for j, T_j in signal.items():
            total[j] = total[j] + T_j if j in total else T_j
    return total


@dataclass(frozen=True)
class FreePhase:
    """The free equilibrium of one example: h = (x, h_1, ..., h_L) with every layer linearised there."""

    h: tuple[Array, ...]
    layers: tuple[Linearised, ...]
    precisions: Precisions | None = None

    @property
    def output(self) -> Array:
        """h_L^free."""
        return self.h[-1]

    @property
    def states(self) -> States:
        """(h_1, ..., h_L), without the input."""
        return self.h[1:]

    @property
    def solution(self) -> None:
        """None: a forward pass needs no iteration."""
        return None


def free_phase(net: Network, params: Params, x: Array, precisions: Precisions | None = None) -> FreePhase:
    """One forward pass: E = 0 and dE/dtheta = 0. The linearisations are shared by all nudged phases."""
    h, layers = [x], []
    for k in range(1, len(net) + 1):
        layers.append(linearise(net, params, k, h, precisions))
        h.append(net.activation(k)(layers[-1].a))
    return FreePhase(tuple(h), tuple(layers), precisions)
