"""Passes through a network, of ONE example: signals from the top down, states from the bottom up; runs in a `lax.scan`.

    down   for k = L..1:  eps_k = error(a_k, T_k),  T_j = sum_k (d f_k / d h_j)^T eps_k
    up     for k = 1..L:  a_k = drive_k(h_{k-1}),  eps_k = error(a_k, T_k),  h_k = phi(a_k) + eps_k

The free phase is the pass up without errors. Its linearisations are shared by all nudged phases.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax import Array, lax

from epjax.network import Network, Params, Stacked, States
from epjax.network.repeat import Repeat, output_of
from epjax.systems.pcn.linearised import Error, Kept, Linearised, Precisions, linearise, sum_signals


@dataclass(frozen=True)
class Run:
    """The units of a `Repeat` linearised, each at its own inputs.

    `kept` are the numbers of all linearisations that stand neither in the parameters nor in the states, [n, ...].
    """

    source: int
    kept: list[Array]
    known: Any
    of_unit: Callable[[list[Array], Any], tuple[Linearised, ...]]

    def down(
        self, T: Array, error: Error, held: Stacked | None = None
    ) -> tuple[Stacked, Stacked, dict[int, Array], Stacked]:
        """Signals and errors of all layers under the signal T to the last, what they send on, what is left inside."""

        def step(T: Array, at: tuple[list[Array], Any, States | None]) -> tuple[Any, tuple[States, ...]]:
            kept, known, held = at
            layers = self.of_unit(kept, known)
            signals, eps, below, inside = down(layers, {len(layers): T}, error, held)
            return below, (signals, eps, inside)

        rows = (self.kept, self.known, None if held is None else held.units)
        below, (signals, eps, inside) = lax.scan(step, T, rows, reverse=True)
        return Stacked(signals), Stacked(eps), {self.source: below} if self.source else {}, Stacked(inside)


Layers = Sequence[Linearised | Run]


def down(
    layers: Layers, T: dict[int, Any], error: Error, held: Sequence[Any] | None = None
) -> tuple[States, States, Array | None, States]:
    """(T_1..T_L), the errors that they leave, the signal to the input, what is left inside the layers.

    From the signals T to the topmost layers. Where errors are `held` these send the signals.
    """
    eps: dict[int, Any] = {}
    inside: dict[int, Any] = {}
    for k in range(len(layers), 0, -1):
        T, eps[k], inside[k] = sent(layers[k - 1], k, T, error, None if held is None else held[k - 1])
    order = range(1, len(layers) + 1)
    return tuple(T[k] for k in order), tuple(eps[k] for k in order), T.get(0), tuple(inside[k] for k in order)


def sent(
    layer: Linearised | Run, k: int, T: dict[int, Any], error: Error, held: Any = None
) -> tuple[dict[int, Any], Any, Any]:
    """The signals with what layer k sends on, its error, and what this leaves inside it."""
    signal, eps, below, inside = layer.down(T[k], error, held)
    return sum_signals([{**T, k: signal}, below]), eps, inside


def through(
    net: Network,
    theta: Stacked,
    k: int,
    h: Sequence[Any],
    T: Stacked | None,
    error: Error | None,
    *,
    open: bool = False,
) -> tuple[Stacked, Stacked | None, Run]:
    """The run of entry k from the bottom up under the signals T: its states, its errors, its units linearised.

    Without signals its states are those of the free phase.
    """
    unit, layer, (source,) = net.unit(k), net.layers[k - 1], net.sources(k)
    assert unit is not None
    assert isinstance(layer, Repeat)
    found: Any = None

    def step(x: Array, at: tuple[Params, States | None]) -> tuple[Array, Any]:
        nonlocal found
        theta, T = at
        states, eps, layers = up(unit, unit.spread(theta), x, T, error, layer.kept, open=open and source > 0)
        kept, found = _apart(layers, (theta, states))
        return states[-1], (states, None if _same(eps, T) else eps, kept)

    _, (states, eps, kept) = lax.scan(step, output_of(h[source]), (theta.units, None if T is None else T.units))
    errors = T if eps is None else Stacked(eps)
    return Stacked(states), errors, Run(source, kept, (theta.units, states), found)


def up(
    net: Network, params: Params, x: Array, T: States | None, error: Error | None, kept: Kept, *, open: bool
) -> tuple[States, States, tuple[Linearised, ...]]:
    """(h_1..h_L), (eps_1..eps_L) and the layers linearised, of a network without runs whose input x is told."""
    h, eps, layers = [x], [], []
    for k in range(1, len(net) + 1):
        layer = linearise(net, params, k, h, tell_input=True, kept=kept, open=open)
        state = layer.activation(layer.a)
        if T is not None and error is not None:
            eps.append(error(layer.activation, layer.a, T[k - 1]))
            state = state + eps[-1]
        layers.append(layer)
        h.append(state)
    return tuple(h[1:]), tuple(eps), tuple(layers)


def _same(eps: States, T: States | None) -> bool:
    """Whether errors are the signals themselves, as without a projection; they are not kept twice."""
    return T is None or all(e is T_j for e, T_j in zip(eps, T, strict=True))


def _apart(layers: tuple[Linearised, ...], known: Any) -> tuple[list[Array], Callable[[list[Array], Any], Any]]:
    """What linearisations hold beside what is `known` anyway, and how they are put together again."""
    leaves, structure = jax.tree.flatten(layers)
    places = {id(v): i for i, v in enumerate(jax.tree.leaves(known))}
    where = [places.get(id(v)) for v in leaves]

    def together(kept: list[Array], known: Any) -> Any:
        held, rest = jax.tree.leaves(known), iter(kept)
        return jax.tree.unflatten(structure, [next(rest) if i is None else held[i] for i in where])

    return [v for v, i in zip(leaves, where, strict=True) if i is None], together


@dataclass(frozen=True)
class FreePhase:
    """The free equilibrium of one example: h = (x, h_1, ..., h_L) with every layer linearised there."""

    h: tuple[Any, ...]
    layers: tuple[Any, ...]
    precisions: Precisions | None = None

    @property
    def output(self) -> Array:
        """h_L^free."""
        return self.h[-1]  # type: ignore[no-any-return]

    @property
    def states(self) -> States:
        """(h_1, ..., h_L), without the input."""
        return self.h[1:]

    @property
    def solution(self) -> None:
        """None: a forward pass needs no iteration."""
        return None


def free_phase(
    net: Network, params: Params, x: Array, precisions: Precisions | None = None, *, open: bool = False
) -> FreePhase:
    """One forward pass: E = 0 and dE/dtheta = 0. The linearisations are shared by all nudged phases.

    `open` lets all layers but the last, whose error the perturbation makes, pull errors to their inside.
    """
    h: list[Any] = [x]
    layers: list[Linearised | Run] = []
    for k in range(1, len(net) + 1):
        if net.unit(k) is not None:
            state, _, run = through(net, params[k - 1], k, h, None, None, open=open)
            h.append(state)
            layers.append(run)
            continue
        layer = linearise(net, params, k, h, precisions, open=open and k < len(net))
        h.append(net.activation(k)(layer.a))
        layers.append(layer)
    return FreePhase(tuple(h), tuple(layers), precisions)
