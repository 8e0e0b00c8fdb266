"""How far the output's error goes towards its new value: all of the way, a fixed share of it, or a measured one.

    chi          d h_L / d eps_L at equilibrium = 1 + sum_k J_k J_k^T,  J_k = d h_L / d eps_k for the layers below
    target       eps_L as the last signal and drive would have it: T_L - (a_L - h_L^free) clamped, -beta dC/dh_L nudged
    relaxation   eps_L <- eps_L + w (target - eps_L)

To first order the target moves by -(S - 1) d where eps_L moves by d, with S = chi for a clamp and S = 1 + beta C'' chi
for a nudge. So a sweep multiplies what is left by 1 - w S: with w = 1 that grows where the largest eigenvalue of S is
above 2, however small the beta of a clamp; it shrinks for every w below 2 / S_max, fastest for 2 / (S_min + S_max).
Until it has come to rest a clamped output is only near the value that it is to be held at.

A measured w is ||d|| / ||S d||, S d being read off the last step and what came of it: the mean of the two step sizes of
Barzilai and Borwein (IMA Journal of Numerical Analysis 8, 1988). It lies between 1 / S_max and 1 / S_min.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from epjax.perturbation import Perturbation
from epjax.systems.pcn.linearised import sum_signals
from epjax.systems.pcn.signals import FreePhase
from epjax.systems.solution import relative

Relaxation = float | Literal["auto"] | None
"""w in (0, 1]; "auto": measured; None: measured for a clamp, 1 for a nudge."""

STIFF = 1.75
"""A measured w is 1 up to this ||S d|| / ||d||: a whole step shrinks the error there by a quarter or more."""
POWER = 3
"""Products with chi that find its largest eigenvalue, to a tenth, where it must be known beforehand."""


def check_relaxation(relaxation: Relaxation) -> None:
    """Raises ValueError unless w is None, "auto" or a number in (0, 1]."""
    number = isinstance(relaxation, int | float) and 0 < relaxation <= 1
    if relaxation is not None and relaxation != "auto" and not number:
        raise ValueError(f"relaxation must be None, 'auto' or lie in (0, 1], got {relaxation!r}")


def resolved(relaxation: Relaxation, perturbation: Perturbation) -> float | Literal["auto"]:
    """What None stands for under that perturbation; anything else as it is."""
    if relaxation is None:
        return "auto" if perturbation.at_once else 1.0
    return relaxation


@partial(jax.tree_util.register_dataclass, data_fields=["eps", "step", "left"], meta_fields=[])
@dataclass(frozen=True)
class Output:
    """The relaxed error of the output, the last step that it made, and what was left to go when it made it."""

    eps: Array
    step: Array
    left: Array

    @classmethod
    def first(cls, eps: Array) -> "Output":
        """Before the first step: eps_L has come from 0, in one step that left nothing."""
        return cls(eps, eps, eps)

    def towards(self, target: Array, relaxation: float | Literal["auto"]) -> "Output":
        """One step: the share `relaxation` of the way, or the measured share of it."""
        left = target - self.eps
        w = measured(self.step, self.left - left) if relaxation == "auto" else relaxation
        eps = share_of_the_way(self.eps, target, w)
        return Output(eps, eps - self.eps, left)


def share_of_the_way(eps: Array, target: Array, w: float | Array) -> Array:
    """eps + w (target - eps); the target itself, to the bit, where w is 1."""
    if isinstance(w, float | int):
        return target if w == 1 else eps + w * (target - eps)
    return jnp.where(w == 1, target, eps + w.astype(eps.dtype) * (target - eps))


def measured(step: Array, response: Array) -> Array:
    """w = ||d|| / ||S d||, real; 1 where it is 1 / STIFF or more, and where nothing moved."""
    w = relative(step, response)
    return jnp.where((w > 0) & (w < 1 / STIFF), w, 1.0).astype(w.dtype)


def chi(free: FreePhase, gates: tuple[Array | None, ...] | None = None) -> Callable[[Array], Array]:
    """v -> chi v [classes] at the free state of one example: two passes each.

    With precisions chi = sum_k pi_L / pi_k J_k J_k^T. `gates` are phi'_k of layers whose units cannot leave a
    bound, None for the others; without them it is chi as if no unit were at its bound.
    """
    L, pi = len(free.layers), free.precisions

    def down(v: Array) -> tuple[Array, ...]:
        T = {L: v}
        for k in range(L, 0, -1):
            T = sum_signals([T, free.layers[k - 1].pull(T[k])])
        return tuple(T[k] for k in range(1, L + 1))

    _, up = jax.vjp(down, jnp.zeros_like(free.output))

    def product(v: Array) -> Array:
        eps = down(v)
        if pi is not None:  # `up` has the ratios of `down`
            eps = tuple(e * (p / pi[-1]) for e, p in zip(eps, pi, strict=True))
        if gates is not None:
            eps = tuple(e if gate is None else gate * gate * e for e, gate in zip(eps, gates, strict=True))
        return up(eps)[0]

    return product


def largest(product: Callable[[Array], Array], start: Array, iterations: int = POWER) -> Array:
    """||S v|| / ||v|| after so many steps of the power iteration from `start`: S_max, from below; 0 if start is 0."""
    v, size = start, jnp.zeros((), start.real.dtype)
    for _ in range(iterations):
        new = product(v)
        size = relative(new, v)
        v = new / jnp.maximum(size, jnp.finfo(size.dtype).tiny).astype(new.dtype)
    return size


def beforehand(free: FreePhase, perturbation: Perturbation) -> Array:
    """w for even/odd iterations, whose response comes late by up to L iterations: at most 3 / (L S_max), or 1.

    S_max is that of the free state, found before the first iteration in POWER products, two passes each.
    """
    S = stiffness(free, perturbation)
    w = jnp.minimum(1.0, 3 / (len(free.layers) * jnp.maximum(S, 1.0)))
    return jnp.where(S > STIFF, w, 1.0).astype(S.dtype)


def stiffness(free: FreePhase, perturbation: Perturbation) -> Array:
    """S_max at the free state, 0 where nothing pushes the output."""
    respond, h_L = chi(free), free.output

    def product(v: Array) -> Array:
        if perturbation.at_once:
            return respond(v)
        return v - jax.jvp(perturbation.signal, (h_L,), (respond(v),))[1]

    return largest(product, perturbation.signal(h_L))
