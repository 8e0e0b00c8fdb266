"""A hidden layer relaxes under the energy while the output is nudged toward a class, and the input follows it.

    F_k(h_k) = C(h_L(h_k), y) + pi/2 |h_k - p_k|^2        p_k = f_k of the first input: what it predicts of layer k
    G(x) = 1/2 |f_k(x) - h_k|^2 / |p_k - h_k|^2           then, and the prior of `epjax.runs.imagine`

The network is cut after layer k: h_k is the input of the layers above, and the target of those below. Both gradients
are EP's own estimates for an input. In the first the layer's error is cheap, for pi is small, so that h_k becomes what
the layers above take for the class, whether an input can give it or not; the picture is what comes nearest to it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from epjax import Layer, Network
from epjax.network import Params
from epjax.network.repeat import Repeat
from epjax.runs.config import Gradient
from epjax.runs.task import gradient
from epjax.systems.system import System, ValueAndGrad

PRECISION = 1e-2
"""pi, the precision of the layer's prediction error beside the cost."""
RATE, STEP = 1.0, 0.05
"""A step goes at most `RATE` down the gradient, and moves no unit by more than `STEP` of the layer's size."""

InputGradient = Callable[[Array], tuple[Array, Array]]
"""x [B, ...] -> (outputs [B, classes], dC/dx of each)."""


@dataclass(frozen=True)
class Halves:
    """A network cut after layer k, with the parameters of both."""

    below: Network
    above: Network
    theta: Params
    over: Params

    def states(self, x: Array) -> Array:
        """h_k [B, ...] of the free phase."""
        return jax.vmap(lambda one: self.below.output(self.theta, one))(x)


def halves(net: Network | System, params: Params, k: int) -> Halves:
    """The layers up to k, and those above. Raises ValueError where they are not told of each other by h_k alone."""
    if not isinstance(net, Network):
        raise ValueError(f"imagine_layer needs a network with a forward pass, got {type(net).__name__}")
    allowed = [j for j in range(1, len(net)) if _parts(net, j)]
    if k not in allowed:
        which = ", ".join(map(str, allowed)) or "no layer of this network"
        raise ValueError(f"imagine_layer must be a layer that all above see the input through, {which}, got {k}")
    above = tuple(_fed_from(k, layer) for layer in net.layers[k:] if isinstance(layer, Layer))
    spread = net.spread(params)
    return Halves(Network(net.layers[:k], net.precision), Network(above, net.precision), spread[:k], spread[k:])


def _fed_from(k: int, layer: Layer) -> Layer:
    return replace(layer, skips=tuple(s - k for s in layer.skips))


def _parts(net: Network, k: int) -> bool:
    if isinstance(net.layers[k - 1], Repeat) or any(isinstance(layer, Repeat) for layer in net.layers[k:]):
        return False
    return all(j >= k for one in range(k + 1, len(net) + 1) for j in net.sources(one))


def each(estimate: ValueAndGrad, params: Params, y: Array, key: Array) -> InputGradient:
    """The outputs, and the gradient of each input's own cost: that of the mean over inputs, times their number."""

    def of(x: Array) -> tuple[Array, Array]:
        found: tuple[tuple[Array, Any], Any] = estimate(params, x, y, key)
        (_, aux), slope = found
        return aux.output, len(x) * slope

    return of


def hidden(cut: Halves, x: Array, y: Array, key: Array, options: Gradient, steps: int) -> Array:
    """h_k [B, ...] after so many steps down F_k, within the range of its activation, from what x predicts."""
    p = cut.states(x)
    axes, project = tuple(range(1, p.ndim)), cut.below.activation(len(cut.below)).project
    of = each(gradient(options, cut.above, 0, argnums=1), cut.over, y, key)
    size = jnp.sqrt(jnp.mean(p * p, axis=axes, keepdims=True))

    def step(h: Array, _: None) -> tuple[Array, None]:
        slope = of(h)[1] + PRECISION * (h - p)
        largest = jnp.maximum(jnp.max(jnp.abs(slope), axis=axes, keepdims=True), jnp.finfo(p.dtype).tiny)
        return project(h - jnp.minimum(RATE, STEP * size / largest) * slope), None

    return jax.lax.scan(step, p, None, length=steps)[0]


def toward(cut: Halves, h: Array, x: Array, key: Array, options: Gradient) -> InputGradient:
    """(f_k(x), dG/dx) of the layers below; `x` is the first input."""
    axes = tuple(range(1, h.ndim))
    scale = jnp.sum((cut.states(x) - h) ** 2, axis=axes)
    below = replace(options, cost="squared_error", perturbation="nudge")
    of = each(gradient(below, cut.below, 0, argnums=1), cut.theta, h, key)

    def scaled(x: Array) -> tuple[Array, Array]:
        states, slope = of(x)
        return states, slope / jnp.maximum(scale, jnp.finfo(h.dtype).tiny).reshape(-1, *(1,) * (slope.ndim - 1))

    return scaled
