"""Deep resistive networks: voltages on nodes, conductances between them, diodes at hidden nodes.

    E = sum_k r^(k-L) [ 1/2 sum_ij g^k_ij (A_k v^(k-1)_i - v^k_j)^2 - b^k . v^k ],   g >= 0,  A_1 = 1, A_k = A
    response   v^k = clip(num_k / den_k),   num_k = A_k g^k^T v^(k-1) + r A g^(k+1) v^(k+1) + b^k
                                            den_k = sum_i g^k_ij + r A^2 sum_l g^(k+1)_jl
    gradient   dE/dg^k_ij = r^(k-L) 1/2 (A_k v_i - v_j)^2,   dE/db = - r^(k-L) v

A is the voltage gain of bidirectional amplifiers between layers and r = 1 / A the ratio of their current gain to it;
A = r = 1 is a plain circuit. The input stands twice, as (gain x, - gain x). Half the hidden units can only be positive,
the others only negative. Weighted by r^(k-L), a nudge of strength beta is a resistor of conductance beta from each
output to a source at y; the negative phase is a negative resistor, stable for beta below the conductance seen from the
outputs.
Kendall et al., arXiv:2006.01981; Scellier, arXiv:2402.11674.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from epjax.network import Params
from epjax.network.precision import Precision, at_precision, check_precision, product
from epjax.shapes import Array, Bool, Inexact, InputShape, shape_of
from epjax.systems.chain import Chain


@dataclass(frozen=True)
class Resistive(Chain):
    """Layers of `sizes` nodes (outputs only). `amplifier` is A, `ratio` is r (default 1 / A), `input_gain` scales x.

    `gain` scales the conductances at the start: max(U(-c, c), 0), c = gain sqrt(1 / fan_in), with a floor of c / 50.
    Raises ValueError for sizes below 1, and gains that are not positive.
    """

    sizes: tuple[int, ...]
    input_gain: float = 1.0
    amplifier: float = 1.0
    ratio: float | None = None
    gain: float = 1.0
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        check_precision(self.precision)
        object.__setattr__(self, "sizes", tuple(self.sizes))
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"sizes must be positive numbers of nodes, got {self.sizes}")
        for name in ("input_gain", "amplifier", "gain"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.ratio is not None and not self.ratio > 0:
            raise ValueError(f"ratio must be positive or None, got {self.ratio}")

    def __len__(self) -> int:
        """L."""
        return len(self.sizes)

    @property
    def r(self) -> float:
        """The ratio of current to voltage gain of the amplifiers."""
        return 1 / self.amplifier if self.ratio is None else self.ratio

    def weight(self, k: int) -> float:
        """r^(k - L)."""
        return float(self.r ** (k - len(self)))

    def voltage_gain(self, k: int) -> float:
        """A_k."""
        return 1.0 if k == 1 else self.amplifier

    def init(self, key: Array, input_shape: InputShape) -> Params:
        """(conductance [2 inputs or nodes, nodes], bias [nodes]) of each layer."""
        params = []
        fan_in = 2 * math.prod(shape_of(input_shape))
        for k, n in enumerate(self.sizes, start=1):
            c = self.gain * fan_in**-0.5
            g = jax.random.uniform(jax.random.fold_in(key, k), (fan_in, n), jnp.float32, -c, c)
            params.append({"conductance": jnp.maximum(g, c / 50), "bias": jnp.zeros(n, jnp.float32)})
            fan_in = n
        return tuple(params)

    def check_values(self, params: Params, x: Any) -> None:
        """Raises ValueError for a conductance that is negative."""
        super().check_values(params, x)
        for k, theta in enumerate(params, start=1):
            least = float(np.min(np.asarray(theta["conductance"])))
            if not least >= 0:
                nearest = "project(params) has the nearest that are"
                raise ValueError(f"conductances must not be negative, got {least:g} in layer {k}: {nearest}")

    def embed(self, k: int, s: Inexact[Array, "..."]) -> Inexact[Array, " features"]:
        """The input as (gain x, - gain x); voltages as they are."""
        if k:
            return s
        flat = self.input_gain * s.ravel()
        return jnp.concatenate([flat, -flat])

    def drive(self, theta_k: Any, k: int, *psi: Inexact[Array, "..."]) -> Inexact[Array, " features"]:
        """r^(k-L) (A_k g^T v + b)."""
        (v,) = psi
        current = at_precision(self.precision, product, v, theta_k["conductance"])
        return self.weight(k) * (self.voltage_gain(k) * current + theta_k["bias"])

    def scale(self, params: Params, k: int) -> Inexact[Array, " features"]:
        """r^(k-L) den_k."""
        den = self.weight(k) * params[k - 1]["conductance"].sum(axis=0)
        if k < len(self):
            den += self.weight(k + 1) * self.amplifier**2 * params[k]["conductance"].sum(axis=1)
        return den

    def constant(self, params: Params, psi_0: Inexact[Array, " features"]) -> Inexact[Array, ""]:
        """1/2 sum_ij g^1_ij (gain x_i)^2, the resistors' share of the input."""
        return 0.5 * self.weight(1) * jnp.sum(psi_0 * psi_0 * params[0]["conductance"].sum(axis=1))

    def bounds(self, k: int, dtype: Any) -> tuple[Inexact[Array, " features"], Inexact[Array, " features"]]:
        """The first half of the hidden units in [0, inf), the others in (-inf, 0]; outputs without bounds."""
        n = self.sizes[k - 1]
        if k == len(self):
            return jnp.full((n,), -jnp.inf, dtype), jnp.full((n,), jnp.inf, dtype)
        positive = jnp.arange(n) < n - n // 2
        return jnp.where(positive, 0.0, -jnp.inf).astype(dtype), jnp.where(positive, jnp.inf, 0.0).astype(dtype)

    def respond(
        self, k: int, z: Inexact[Array, " features"], scale: Inexact[Array, " features"] | None
    ) -> Inexact[Array, " features"]:
        """clip(z / den)."""
        assert scale is not None
        return jnp.clip(z / scale, *self.bounds(k, z.dtype))

    def respond_difference(
        self,
        k: int,
        z: Inexact[Array, " features"],
        dz: Inexact[Array, " features"],
        scale: Inexact[Array, " features"] | None,
    ) -> Inexact[Array, " features"]:
        """clip(dz / den + (z / den - p), lo - p, hi - p), p = clip(z / den)."""
        assert scale is not None
        lo, hi = self.bounds(k, z.dtype)
        u = z / scale
        p = jnp.clip(u, lo, hi)
        return jnp.clip(dz / scale + (u - p), lo - p, hi - p)

    def inside(self, k: int, s: Inexact[Array, " features"]) -> Bool[Array, " features"]:
        """A diode that does not conduct lets its node move."""
        lo, hi = self.bounds(k, s.dtype)
        return (s > lo) & (s < hi)

    def towards(
        self,
        k: int,
        old: Inexact[Array, " features"],
        new: Inexact[Array, " features"],
        w: Inexact[Array, ""],
        at: Inexact[Array, " features"] | None = None,
    ) -> Inexact[Array, " features"]:
        """Straight, then into the range."""
        lo, hi = self.bounds(k, old.dtype)
        moved = old + w * (new - old)
        return jnp.clip(moved, lo, hi) if at is None else jnp.clip(moved, lo - at, hi - at)

    def project(self, params: Params) -> Params:
        """g <- max(g, 0): a conductance is not negative."""
        return tuple({**theta, "conductance": jnp.maximum(theta["conductance"], 0)} for theta in params)
