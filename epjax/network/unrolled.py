"""A network whose runs of equal layers are laid out: single layers, of the same parameters, which stay stacked.

What computes layer by layer (even/odd and synchronous updates, diagnosis, predictive coding's own algorithms, hardware)
takes it. Its program grows with depth; its numbers are those of the run.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax
from jax import Array

from epjax.network.architecture import Network, Params
from epjax.network.layer import Layer
from epjax.network.repeat import Alone, Repeat, Stacked
from epjax.network.traced import Traced, is_spread
from epjax.shapes import InputShape


@dataclass(frozen=True, repr=False)
class Unrolled(Network):
    """`whole` with every layer of its runs by itself. Its parameters, and their gradients, are those of `whole`."""

    whole: Network = field(kw_only=True)

    def sources(self, k: int) -> tuple[int, ...]:
        """As in `whole`; a layer of a run is fed by the unit below it, or by what feeds the run."""
        return self._sources[k - 1]

    @cached_property
    def _sources(self) -> list[tuple[int, ...]]:
        whole, found = self.whole, []
        for k in range(1, len(whole) + 1):
            unit, layer = whole.unit(k), whole.layers[k - 1]
            feeds = tuple(whole.number(j + 1) - 1 for j in whole.sources(k))
            if unit is None or not isinstance(layer, Repeat):
                found.append(feeds)
                continue
            for i in range(layer.n):
                below = whole.number(k) - 1 + i * len(unit)
                under = below if i else feeds[0]
                found += [tuple(s + below if s else under for s in unit.sources(j + 1)) for j in range(len(unit))]
        return found

    def spread(self, params: Params) -> Params:
        """One entry a layer; of params that are spread already, the same."""
        of_layers = is_spread(params) if isinstance(self.whole, Traced) else True
        if of_layers and len(params) == len(self) and not any(isinstance(theta, Stacked) for theta in params):
            return params
        return self._laid_out(self.whole.spread(params), own=False)

    def by_layer(self, params: Params) -> Params:
        """One entry a layer, each parameter once."""
        return self._laid_out(self.whole.by_layer(params), own=True)

    def _laid_out(self, params: Params, *, own: bool) -> Params:
        found: list[Any] = []
        for k, theta in enumerate(params, start=1):
            unit, layer = self.whole.unit(k), self.whole.layers[k - 1]
            if unit is None or not isinstance(layer, Repeat):
                found.append(theta)
            else:
                for one in theta.laid_out() or [theta.units] * layer.n:  # without any parameter there are no rows
                    found.extend(one if own else unit.spread(one))
        return tuple(found)

    def example(self, input_shape: InputShape) -> jax.ShapeDtypeStruct:
        """As of `whole`."""
        return self.whole.example(input_shape)

    def init(self, key: Array, input_shape: InputShape) -> Params:
        """The parameters of `whole`."""
        return self.whole.init(key, input_shape)

    def check(self, params: Params, x: Array | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        """As `whole` checks them."""
        return self.whole.check(params, x)

    @property
    def indices(self) -> Any:
        """As of `whole`."""
        return self.whole.indices


def unrolled(net: Network) -> Network:
    """`net` without runs: each layer of a `Repeat` by itself. A network that has none is itself."""
    if not any(isinstance(layer, Repeat) for layer in net.layers):
        return net
    return Unrolled(tuple(_single_layers(net)), net.precision, whole=net)


def _single_layers(net: Network) -> Iterator[Layer]:
    for k, layer in enumerate(net.layers, start=1):
        first = net.number(k)
        if isinstance(layer, Layer):
            yield replace(layer, skips=tuple(net.number(j + 1) - 1 for j in layer.skips))
        else:
            for below in range(first - 1, first - 1 + layer.depth, len(layer.unit)):
                for one in layer.unit:
                    yield Layer(Alone(one.function, one.function.name), one.activation, _moved(one.skips, below))


def _moved(skips: tuple[int, ...], below: int) -> tuple[int, ...]:
    return tuple(s + below for s in skips)
