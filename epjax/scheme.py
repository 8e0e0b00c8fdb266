"""Which nudged phases there are and how they make one gradient: strengths s_p beta, coefficients c_p of sum 1.

    gradient = sum_p c_p [G(s_p beta) - G(0)] / (s_p beta)

    forward, backward    s = 1 or -1                                                              error O(beta)
    random               s = 1 or -1, drawn for each example                                      error O(beta)
    centered             s = 1..N, -1..-N       c_j = 1/2 prod_{i != j} i^2 / (i^2 - j^2)         error O(beta^(2 N))
    holomorphic          s = exp(i pi p / N)    c = 1 / 2N for each of the 2N roots of unity      error O(beta^(2 N))

N is `points`. One point is [G(beta) - G(-beta)] / (2 beta) in both; more of them cancel the next orders of the error,
on the real line by Richardson's extrapolation, around a circle by Cauchy's integral (Laborieux and Zenke,
arXiv:2209.00530). A new scheme is a `Scheme`, or a line in SCHEMES for one that has a name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from epjax.shapes import Inexact


@dataclass(frozen=True)
class Scheme:
    """Phases of strength s_p beta with coefficients c_p, positive strengths first.

    With `random_sign` all s of an example are multiplied by a sign drawn for it. Complex s stand for conjugate pairs:
    the real part of the sum is taken, so that a pair needs one of its two and twice its coefficient. Raises ValueError
    unless there are as many c as s, at least one, no s is zero and the c sum to one.
    """

    s: tuple[complex | float, ...]
    c: tuple[float, ...]
    random_sign: bool = False

    def __post_init__(self) -> None:
        if not self.s or len(self.s) != len(self.c):
            raise ValueError(f"s and c must be of one length, at least 1, got {len(self.s)} and {len(self.c)}")
        if not np.all(np.isfinite(self.s)) or not np.all(self.s):
            raise ValueError(f"s must hold finite strengths other than 0, got {self.s}")
        if not abs(sum(self.c) - 1) < 1e-9:
            raise ValueError(f"c must sum to one, got {self.c}, which sum to {sum(self.c):g}")

    @property
    def is_complex(self) -> bool:
        """Whether some strength is not real, so that states are complex."""
        return bool(np.iscomplexobj(np.asarray(self.s)))

    def nudges(
        self, batch: int, key: Array | None, dtype: Any
    ) -> tuple[Inexact[Array, "batch phases"], Inexact[Array, "batch phases"]]:
        """s and c [B, P] of `dtype`, complex where a strength is. One key draws all signs, or keys [B] one each.

        Raises ValueError without a key where signs are drawn.
        """
        dtype = np.result_type(dtype, np.complex64) if self.is_complex else dtype

        def every(v: tuple[complex | float, ...]) -> Array:
            return jnp.broadcast_to(jnp.array(np.asarray(v), dtype), (batch, len(v)))

        if not self.random_sign:
            return every(self.s), every(self.c)
        if key is None:
            raise ValueError("key must be a jax random key for scheme='random', got None")
        if key.ndim:
            signs = jax.vmap(lambda key: jax.random.rademacher(key, (1,), dtype))(key)
        else:
            signs = jax.random.rademacher(key, (batch, 1), dtype)
        return every(self.s) * signs, every(self.c)


def centered(points: int) -> Scheme:
    """Richardson's extrapolation on both sides of 0."""
    j = np.arange(1, points + 1)
    others = [np.delete(j, i) for i in range(points)]
    c = np.tile([0.5 * np.prod(i**2 / (i**2 - m**2)) for m, i in zip(j, others, strict=True)], 2)
    s = np.concatenate([j, -j])
    return Scheme(tuple(map(float, s)), tuple(map(float, c)))


def holomorphic(points: int) -> Scheme:
    """Roots of unity on and above the real axis: below, G takes conjugate values, so twice the real part is of both.

    The two on the axis are their own conjugates and count once.
    """
    s = np.append(np.exp(1j * np.pi * np.arange(points) / points), -1)
    c = np.full(points + 1, 1 / points) - np.isin(np.arange(points + 1), (0, points)) * 0.5 / points
    return Scheme(tuple(map(complex, s)), tuple(map(float, c)))


SCHEMES: Mapping[str, Scheme | Callable[[int], Scheme]] = {
    "centered": centered,
    "forward": Scheme((1.0,), (1.0,)),
    "backward": Scheme((-1.0,), (1.0,)),
    "random": Scheme((1.0,), (1.0,), random_sign=True),
    "holomorphic": holomorphic,
}
"""By name; those that take `points` are functions of it."""


def as_scheme(scheme: Any, points: int = 1) -> Scheme:
    """The scheme of that name, or the object itself.

    Raises ValueError for an unknown name, and for points that the scheme does not have.
    """
    known = SCHEMES.get(scheme) if isinstance(scheme, str) else scheme
    if known is None or not (callable(known) or isinstance(known, Scheme)):
        raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}, or a Scheme, got {scheme!r}")
    if points < 1 or (points > 1 and not callable(known)):
        raise ValueError(f"points must be 1, or more with scheme 'centered' or 'holomorphic', got {points} ({scheme})")
    return known(points) if callable(known) else known


def as_complex(tree: Any) -> Any:
    """The same numbers, complex."""
    return jax.tree.map(lambda v: v.astype(np.result_type(v.dtype, np.complex64)), tree)
