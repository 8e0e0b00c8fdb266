"""A residual multilayer perceptron, plain or with the scalings of muPC.

    h_1 = a_1 W_1 x,    h_k = h_{k-1} + a W_k phi(h_{k-1}),    h_L = a_L W_L phi(h_{L-1})        W_k [n_{k-1}, n_k]

    standard   W ~ N(0, 1 / n_{k-1}),  a_1 = a = a_L = 1
    mupc       W ~ N(0, 1),            a_1 = 1 / sqrt(n_0),   a = 1 / sqrt(N L),   a_L = 1 / N     (N: the width)

muPC keeps states, and what training changes of them, of one size at any width and depth: Innocenti, Achour and Buckley,
arXiv:2505.13124. Training with it wants an optimiser that does not see the size of a gradient, such as adam.
"""

from collections.abc import Callable
from typing import Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from epjax.models.runs import run_of
from epjax.network import Layer, Network
from epjax.network.activation import identity
from epjax.network.drive import OneExample
from epjax.network.precision import Precision
from epjax.shapes import Inexact

Scaling = Literal["standard", "mupc"]
Nonlinearity = Callable[[Array], Array]


class Scaled(OneExample):
    """a W phi(vec(h)), and with `residual` h + that; W ~ N(0, `spread`^2), or 1 / fan_in where there is none."""

    features: int
    scale: float | None
    spread: float | None
    phi: Nonlinearity
    residual: bool = False

    @nn.compact
    def __call__(self, h: Inexact[Array, "..."]) -> Inexact[Array, " {self.features}"]:
        """[...] -> [features]; `scale` None is 1 / sqrt(fan_in)."""
        flat = h.ravel()
        spread = flat.size**-0.5 if self.spread is None else self.spread
        kernel = self.param("kernel", nn.initializers.normal(spread), (flat.size, self.features), jnp.float32)
        a = flat.size**-0.5 if self.scale is None else self.scale
        moved = a * jnp.dot(self.phi(flat), kernel).astype(h.dtype)
        return h + moved if self.residual else moved


def residual_mlp(
    width: int,
    depth: int,
    num_classes: int,
    *,
    scaling: Scaling = "standard",
    phi: Nonlinearity = nn.gelu,
    stacked: bool = False,
    precision: Precision = "float32",
) -> Network:
    """`depth` = L layers of `width`, a residual one each but for the first and the last, which has `num_classes`.

    phi is smooth unless you choose another: it stands within a layer, where a kink that a nudge crosses costs accuracy.
    With `stacked` the residual layers are one `epjax.Repeat`. Raises ValueError for a width or classes below 1, a depth
    below 2, and an unknown scaling.
    """
    for name, value, least in (("width", width, 1), ("depth", depth, 2), ("num_classes", num_classes, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if scaling not in get_args(Scaling):
        raise ValueError(f"scaling must be one of {', '.join(get_args(Scaling))}, got {scaling!r}")
    mupc = scaling == "mupc"
    spread = 1.0 if mupc else None
    first = Scaled(width, None if mupc else 1.0, spread, identity_of)

    def block() -> tuple[Layer, ...]:
        a = (width * depth) ** -0.5 if mupc else 1.0
        return (Layer(Scaled(width, a, spread, phi, residual=True), identity),)

    last = Scaled(num_classes, 1 / width if mupc else 1.0, spread, phi)
    blocks = run_of(depth - 2, block, stacked=stacked)
    return Network((Layer(first, identity), *blocks, Layer(last, identity)), precision)


def identity_of(h: Array) -> Array:
    """h: what the first layer has for phi."""
    return h
