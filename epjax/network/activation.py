"""Activations phi_k and the error that a top-down signal leaves at a layer."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array

from epjax.shapes import Inexact

Update = Literal["mod_pgd", "pgd"]


@dataclass(frozen=True)
class Activation:
    """phi, and whether it projects: phi(a) = clip(a, lo, hi) with `bounds` = (lo, hi), or smooth (`bounds` None).

    A projection's range limits the state: h = clip(h, lo, hi) after each update. A smooth phi leaves the
    state free, so that every stationary point of F can be reached.
    """

    name: str
    phi: Callable[[Array], Array]
    bounds: tuple[float, float] | None = None

    def __call__(self, a: Inexact[Array, "*state"]) -> Inexact[Array, "*state"]:
        """phi(a), elementwise."""
        return self.phi(a)

    def error(
        self, a: Inexact[Array, "*state"], T: Inexact[Array, "*state"], update: Update
    ) -> Inexact[Array, "*state"]:
        """eps = h_new - phi(a) for one full step (alpha = 1), never formed as a difference of two states.

            pgd       proj(phi(a) + T) - phi(a)  =  clip(T, lo - phi(a), hi - phi(a))
            mod_pgd   phi(a + T) - phi(a)        =  clip(T + (a - phi(a)), lo - phi(a), hi - phi(a))

        For ReLU and mod-PGD: max(T, -a) where a > 0 and ReLU(a + T) where a <= 0. a - phi(a) is exact in
        floating point: it is 0 inside the range. The identity's range has no end: eps = T. docs/method.md section 5.
        """
        if not self.projects:
            return T
        assert self.bounds is not None
        lo, hi = self.bounds
        p = self.phi(a)
        return jnp.clip(T + (a - p) if update == "mod_pgd" else T, lo - p, hi - p)

    def project(self, h: Inexact[Array, "*state"]) -> Inexact[Array, "*state"]:
        """proj(h) on the range of phi: clip(h, lo, hi), or h itself where nothing is out of range."""
        if not self.projects:
            return h
        assert self.bounds is not None
        return jnp.clip(h, *self.bounds)

    @property
    def projects(self) -> bool:
        """Whether some states are out of phi's range and projected onto it, which makes a kink."""
        return self.bounds is not None and any(map(math.isfinite, self.bounds))


identity = Activation("identity", lambda a: a, (-float("inf"), float("inf")))
relu = Activation("relu", jax.nn.relu, (0.0, float("inf")))
unit = Activation("unit", lambda a: jnp.clip(a, 0.0, 1.0), (0.0, 1.0))
hard_tanh = Activation("hard_tanh", jax.nn.hard_tanh, (-1.0, 1.0))
tanh = Activation("tanh", jnp.tanh)
sigmoid = Activation("sigmoid", jax.nn.sigmoid)
softplus = Activation("softplus", jax.nn.softplus)
gelu = Activation("gelu", jax.nn.gelu)
silu = Activation("silu", jax.nn.silu)

ACTIVATIONS = {f.name: f for f in (identity, relu, unit, hard_tanh, tanh, sigmoid, softplus, gelu, silu)}


def as_activation(given: Any) -> Activation:
    """An activation by itself, by its name or by its function: `relu`, "relu" and `jax.nn.relu` are the same.

    Raises ValueError for anything else.
    """
    if isinstance(given, Activation):
        return given
    names = {jax.nn.identity: "identity", jax.lax.tanh: "tanh"} | {f.phi: name for name, f in ACTIVATIONS.items()}
    name = given if isinstance(given, str) else names.get(given) if callable(given) else None
    found = ACTIVATIONS.get(name or "")
    if found is None:
        what = repr(given) if isinstance(given, str) else getattr(given, "__name__", type(given).__name__)
        allowed = f"an Activation, or {', '.join(ACTIVATIONS)} by name or by function"
        raise ValueError(f"activation must be {allowed}, got {what}: Activation('name', f) takes another smooth f")
    return found


def check_update(update: str, activations: tuple[Activation, ...]) -> None:
    """Raise ValueError unless `update` is known and, for mod_pgd, every activation is a projection.

    mod-PGD sets h = phi(a + T). Where 0 < phi' < 1 its fixed points carry phi' twice and are not those of F.
    """
    if update not in get_args(Update):
        raise ValueError(f"update must be one of {', '.join(get_args(Update))}, got {update!r}")
    for k, activation in enumerate(activations, start=1):
        if update == "mod_pgd" and activation.bounds is None:
            raise ValueError(
                f"update='mod_pgd' needs activations that are projections (identity, relu, hard_tanh), "
                f"but layer {k} has {activation.name!r}: use update='pgd'"
            )
