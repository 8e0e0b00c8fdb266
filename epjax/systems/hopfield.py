"""Deep Hopfield networks: E = sum_k [ 1/2 |s_k|^2 - s_k . (B_k s_{k-1} + b_k) ], hidden units in [0, 1], output linear.

    response   s_k = clip(z_k, lo, hi)          gradient   dE/dB_k = - s_k s_{k-1}^T,  dE/db_k = - s_k

The couplings are those of a `Network`: dense, convolutions with average pooling, skip connections, any affine flax
module as a drive. Through max-pooling the energy still never rises, but a response solves its block only as
long as no route changes. Laborieux et al., doi:10.3389/fnins.2021.633674; Scellier et al., arXiv:2312.15103.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from epjax.network import Layer, Network, Params
from epjax.network.activation import identity, unit
from epjax.network.affine import is_affine
from epjax.network.drive import Conv, Dense
from epjax.network.precision import Precision
from epjax.network.traced import Traced
from epjax.shapes import Array, Bool, Inexact, InputShape, shape_of
from epjax.systems.chain import Chain


@dataclass(frozen=True)
class Hopfield(Chain):
    """A Hopfield network with the layers of `net`; an activation stands for the range of its units, `bounds`.

    Raises ValueError for an activation that is no projection: it has no range; and for layers that share weights.
    """

    net: Network

    def __post_init__(self) -> None:
        if isinstance(self.net, Traced):
            raise ValueError("net of a Hopfield network must be made of Layers, got a function: it is for PCN alone")
        if self.net.ties:
            tie = self.net.ties[0]
            raise ValueError(
                f"net of a Hopfield network must have weights of its own in every layer, but layers {tie.first} and "
                f"{tie.layer} share theirs"
            )
        for k in range(1, len(self) + 1):
            if self.net.activation(k).bounds is None:
                allowed = "a range: identity, relu, hard_tanh or unit"
                raise ValueError(
                    f"layer {k} of a Hopfield network must have {allowed}, got {self.net.activation(k).name}"
                )

    @classmethod
    def dense(cls, sizes: Sequence[int], *, gain: float = 0.4, precision: Precision = "float32") -> "Hopfield":
        """Dense layers of `sizes` (outputs only), hidden units in [0, 1]; W ~ U(-c, c), c = gain sqrt(3 / fan_in).

        From three layers on keep the gain at 0.5 or below: above it the network settles slowly or never. Raises
        ValueError without sizes, or for one below 1.
        """
        return cls.convolutional((), sizes, gain=gain, precision=precision)

    @classmethod
    def convolutional(
        cls, channels: Sequence[int], sizes: Sequence[int], *, gain: float = 0.4, precision: Precision = "float32"
    ) -> "Hopfield":
        """3x3 convolutions with 2x2 max-pooling, then dense layers of `sizes`, as `dense` has them.

        Raises ValueError without sizes, or for one or a number of channels below 1.
        """
        if not sizes or min((*channels, *sizes)) < 1:
            given = f"{tuple(channels)} and {tuple(sizes)}" if channels else f"{tuple(sizes)}"
            raise ValueError(f"sizes must be positive layer sizes, got {given}")
        c = gain * 3**0.5
        drives = [*(Conv(n, True, c) for n in channels), *(Dense(n, c) for n in sizes)]
        ranges = [unit] * (len(drives) - 1) + [identity]
        return cls(Network(tuple(Layer(d, r) for d, r in zip(drives, ranges, strict=True)), precision=precision))

    def __len__(self) -> int:
        """L."""
        return len(self.net)

    def init(self, key: Array, input_shape: InputShape) -> Params:
        """The network's parameters. Raises ValueError as `Network.init` does, and for a drive that is not affine."""
        params = self.net.init(key, input_shape)
        x = jax.ShapeDtypeStruct(shape_of(input_shape), jnp.float32)
        states = (x, *jax.eval_shape(self.start, params, x))
        for k, theta in enumerate(self.net.spread(params), start=1):
            if not is_affine(partial(self.net.drive, theta, k), *(states[j] for j in self.sources(k))):
                name = self.net.layers[k - 1].function.name
                raise ValueError(
                    f"the drive of layer {k} of a Hopfield network must be affine in its inputs, or its couplings are "
                    f"not symmetric and there is no energy, got {name}"
                )
        return params

    def examine(self, params: Params, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        """The network's output. Raises ValueError as `Network.init` does."""
        return self.net.check(params, x)

    def summary(self, input_shape: InputShape) -> str:
        """The network's."""
        return self.net.summary(input_shape)

    def sources(self, k: int) -> tuple[int, ...]:
        """k - 1, then the skips."""
        return self.net.sources(k)

    def drive(self, theta_k: Any, k: int, *psi: Inexact[Array, "..."]) -> Inexact[Array, "*state"]:
        """The layer's drive."""
        return self.net.drive(theta_k, k, *psi)

    def respond(self, k: int, z: Inexact[Array, "*state"], scale: Array | None) -> Inexact[Array, "*state"]:
        """clip(z, lo, hi)."""
        del scale
        return self.net.activation(k).project(z)

    def respond_difference(
        self, k: int, z: Inexact[Array, "*state"], dz: Inexact[Array, "*state"], scale: Array | None
    ) -> Inexact[Array, "*state"]:
        """clip(dz + (z - p), lo - p, hi - p), p = clip(z)."""
        del scale
        return self.net.activation(k).error(z, dz, "mod_pgd") if self.net.activation(k).projects else dz

    def inside(self, k: int, s: Inexact[Array, "*state"]) -> Bool[Array, "*state"]:
        """lo < s < hi."""
        lo, hi = self.net.activation(k).bounds or (-jnp.inf, jnp.inf)
        return (s > lo) & (s < hi)

    def towards(
        self,
        k: int,
        old: Inexact[Array, "*state"],
        new: Inexact[Array, "*state"],
        w: Inexact[Array, ""],
        at: Inexact[Array, "*state"] | None = None,
    ) -> Inexact[Array, "*state"]:
        """Straight, then into the range."""
        lo, hi = self.net.activation(k).bounds or (-jnp.inf, jnp.inf)
        moved = old + w * (new - old)
        return jnp.clip(moved, lo, hi) if at is None else jnp.clip(moved, lo - at, hi - at)
