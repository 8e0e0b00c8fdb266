"""Layered networks of coupled phase oscillators (the XY model).

    E = - sum_k sum_ij W^k_ij cos(p^(k-1)_i - p^k_j) - sum_k < b^k, (cos p^k, sin p^k) >
    response   p_j = atan2(z_sin, z_cos),   z = b + W^T psi_(k-1) + W psi_(k+1),   psi = (cos p, sin p)
    gradient   dE/dW_ij = - cos(p_i - p_j),   dE/db = - (cos p, sin p)

The output is sin p_L; the input x stands as the phase pi (x - 1/2). |z_j| is the stiffness of oscillator j: a phase is
soft where it is small and none where it is zero, so biases start at (1, 0). 1 - cos(p - t) is no cost for training: it
has no force where the phase is wrong by pi. Use the squared error or cross-entropy of sin p.
Rageau and Grollier, arXiv:2504.11884; Wang, Wanjura and Marquardt, arXiv:2402.08579.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from epjax.network import Params, States
from epjax.network.precision import Precision, at_precision, check_precision, product
from epjax.perturbation import Perturbation
from epjax.scheme import Scheme
from epjax.shapes import Array, Bool, Inexact, InputShape, shape_of
from epjax.systems.chain import Chain
from epjax.systems.relax import Relax
from epjax.systems.solution import Errors

JUMP = 1.0
"""Radians from which on a displacement is a jump."""


@dataclass(frozen=True)
class Oscillators(Chain):
    """Layers of `sizes` oscillators (outputs only); W ~ U(-c, c), c = gain sqrt(3 / fan_in), biases (`bias`, 0).

    Raises ValueError for sizes below 1, a gain that is not positive, and a bias that is not.
    """

    sizes: tuple[int, ...]
    gain: float = 0.5
    bias: float = 1.0
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        check_precision(self.precision)
        object.__setattr__(self, "sizes", tuple(self.sizes))
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"sizes must be positive numbers of oscillators, got {self.sizes}")
        if not self.gain > 0:
            raise ValueError(f"gain must be positive, got {self.gain}")
        if not self.bias > 0:
            raise ValueError(f"bias must be positive, or phases are soft and never settle, got {self.bias}")

    def __len__(self) -> int:
        """L."""
        return len(self.sizes)

    def init(self, key: Array, input_shape: InputShape) -> Params:
        """(coupling [fan_in, n], bias [2, n]) of each layer."""
        params = []
        fan_in = math.prod(shape_of(input_shape))
        for k, n in enumerate(self.sizes, start=1):
            c = self.gain * (3 / fan_in) ** 0.5
            w = jax.random.uniform(jax.random.fold_in(key, k), (fan_in, n), jnp.float32, -c, c)
            bias = jnp.zeros((2, n), jnp.float32).at[0].set(self.bias)
            params.append({"coupling": w, "bias": bias})
            fan_in = n
        return tuple(params)

    @property
    def input_range(self) -> tuple[float, float]:
        """[0, 1]: phases from - pi/2 to pi/2, beyond which another input has the same sine."""
        return 0.0, 1.0

    def check(self, scheme: Scheme, equilibration: Any, errors: Errors) -> None:
        """Raises ValueError for what is no `Relax`. Complex strengths are allowed: the responses are analytic."""
        del scheme, errors
        if not isinstance(equilibration, Relax):
            raise ValueError(f"equilibration of {self._name} must be epjax.Relax(...), got {equilibration!r}")

    def embed(self, k: int, s: Inexact[Array, "..."]) -> Inexact[Array, "2 features"]:
        """(cos p, sin p) [2, n]; the input as phases pi (x - 1/2)."""
        p = s if k else math.pi * (s.ravel() - 0.5)
        return jnp.stack([jnp.cos(p), jnp.sin(p)])

    def embed_difference(
        self, k: int, s: Inexact[Array, " features"], d: Inexact[Array, " features"]
    ) -> Inexact[Array, "2 features"]:
        """(- 2 sin(p + d/2) sin(d/2), 2 cos(p + d/2) sin(d/2))."""
        del k
        middle, half = s + 0.5 * d, jnp.sin(0.5 * d)
        return jnp.stack([-2 * jnp.sin(middle) * half, 2 * jnp.cos(middle) * half])

    def drive(self, theta_k: Any, k: int, *psi: Inexact[Array, "..."]) -> Inexact[Array, "2 features"]:
        """W^T psi + b [2, n]."""
        del k
        return at_precision(self.precision, product, psi[0], theta_k["coupling"]) + theta_k["bias"]

    def own(self, k: int, psi: Inexact[Array, "2 features"], scale: Array | None) -> Inexact[Array, ""]:
        """0: the circle is the range, and there is no other energy."""
        del k, scale
        return jnp.zeros((), psi.dtype)

    def respond(self, k: int, z: Inexact[Array, "2 features"], scale: Array | None) -> Inexact[Array, " features"]:
        """atan2(z_sin, z_cos)."""
        del k, scale
        return _angle(z[0], z[1])

    def respond_difference(
        self, k: int, z: Inexact[Array, "2 features"], dz: Inexact[Array, "2 features"], scale: Array | None
    ) -> Inexact[Array, " features"]:
        """atan2(dz_s c - dz_c s, c^2 + s^2 + dz_c c + dz_s s), (c, s) = z."""
        del k, scale
        c, s = z
        return _angle(c * c + s * s + dz[0] * c + dz[1] * s, dz[1] * c - dz[0] * s)

    def towards(
        self,
        k: int,
        old: Inexact[Array, " features"],
        new: Inexact[Array, " features"],
        w: Inexact[Array, ""],
        at: Inexact[Array, " features"] | None = None,
    ) -> Inexact[Array, " features"]:
        """Around the circle, the short way."""
        del k, at
        step = new - old
        turns = jnp.round(step.real / (2 * math.pi)).astype(step.dtype)
        return old + w.astype(step.dtype) * (step - 2 * math.pi * turns)

    def stiffness(self, z: Inexact[Array, "2 features"], scale: Array | None) -> Inexact[Array, " features"]:
        """|z|."""
        del scale
        return jnp.hypot(z[0], z[1])

    def readout(self, s_L: Inexact[Array, " features"]) -> Inexact[Array, " features"]:
        """sin p_L."""
        return jnp.sin(s_L)

    def readout_difference(
        self, s_L: Inexact[Array, " features"], d: Inexact[Array, " features"]
    ) -> Inexact[Array, " features"]:
        """2 cos(p + d/2) sin(d/2)."""
        return 2 * jnp.cos(s_L + 0.5 * d) * jnp.sin(0.5 * d)

    def jumped(self, displacements: States) -> Bool[Array, ""]:
        """Some phase moved by more than 1: small nudges move phases a little, or to where another minimum is."""
        return jnp.any(jnp.stack([jnp.any(jnp.abs(d) > JUMP) for d in displacements]))

    def lift(self, T: Inexact[Array, " features"]) -> Inexact[Array, "2 features"]:
        """(0, T): a force on sin p."""
        return jnp.stack([jnp.zeros_like(T), T])

    def held(self, s_L: Inexact[Array, " features"], perturbation: Perturbation) -> Inexact[Array, " features"]:
        """The phase whose sine the clamped output has, less p_L: it must lie in [-1, 1]."""
        o = self.readout(s_L)
        return jnp.arcsin(jnp.clip(o + perturbation.signal(o), -1, 1)) - jnp.arcsin(o)


def _angle(c: Array, s: Array) -> Array:
    """The phase of (c, s); of complex ones its analytic continuation - i/2 log((c + i s) / (c - i s))."""
    if jnp.iscomplexobj(c):
        return -0.5j * jnp.log((c + 1j * s) / (c - 1j * s))
    return jnp.arctan2(s, c)
