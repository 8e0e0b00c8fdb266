"""What an equilibration gives, and the words its options and stops are said in; the same for every system."""

import warnings
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from epjax.network import States
from epjax.network.inside import Inside
from epjax.network.repeat import of_each

Errors = Literal["carried", "recomputed"]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        *("h", "errors", "iterations", "residual", "converged", "energies", "changes"),
        *("susceptibility", "displacement", "inside"),
    ],
    meta_fields=[],
)
@dataclass(frozen=True)
class Solution:
    """A nudged state and how it was reached.

    Fields that were not asked for are None: not measured.

        h            (h_1, ..., h_L)
        errors       (eps_1, ..., eps_L), which the estimator turns into a gradient
        iterations   iterations (or sweeps) that were run, int32
        residual     worst layer of ||r_k|| / ||eps_k||, where r_k = h_k - update_k(h) at alpha = 1, all layers at h:
                     with PGD the projected dF/dh_k, for smooth activations dF/dh_k itself
        converged    residual <= tolerance
        energies     F at the free state and after every iteration, NaN after an early stop
        changes      the largest change of every iteration relative to ||eps_k||, the residual met by its updates
        susceptibility  ||o^beta - o^0|| / (beta ||dC/do||) of the output o; None where it is clamped. Times beta it
                     says how large the bias is, and how near a negative phase is to its end
        displacement [L] ||eps_k|| / max(||h_k||, ||eps_k||), at most 1: EP wants it small. Of a system that settles the
                     displacement d_k stands for the error
        inside       what errors leave inside each layer, where pulls are shared; for the estimator
    """

    h: States | None
    errors: States | None
    iterations: Array
    residual: Array | None
    converged: Array | None
    energies: Array | None
    changes: Array | None = None
    susceptibility: Array | None = None
    displacement: Array | None = None
    inside: tuple[Inside, ...] | None = None


def check_options(iterations: int, tolerance: float | None, unroll: int, name: str) -> None:
    """Raises ValueError unless iterations >= 1, unroll >= 0 and the tolerance is None or positive."""
    if not iterations >= 1:
        raise ValueError(f"{name} must be at least 1, got {iterations}")
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"tolerance must be positive or None, got {tolerance}")
    if not unroll >= 0:
        raise ValueError(f"unroll must be at least 0, got {unroll}")


def check_tolerance(tolerance: float | None, dtype: jnp.dtype) -> None:
    """Warns where rounding of relative size 4 eps keeps the residual above the tolerance."""
    floor = 4 * float(jnp.finfo(dtype).eps)
    if tolerance is not None and tolerance < floor:
        warnings.warn(
            f"tolerance {tolerance:g} is below what {jnp.dtype(dtype).name} can reach (about {floor:.1e}): "
            f"the equilibration will run to its maximum",
            stacklevel=3,
        )


def displacement(free: States, found: Solution) -> Array:
    """[L]: what errors (or displacements) are of the states of one example, by layer."""
    assert found.h is not None
    errors = jax.tree.map(jnp.subtract, found.h, free) if found.errors is None else found.errors

    def share(eps: Array, s: Array) -> Array:
        eps, s = jnp.linalg.norm(jnp.abs(eps).ravel()), jnp.linalg.norm(jnp.abs(s).ravel())
        return eps / jnp.maximum(jnp.maximum(eps, s), jnp.finfo(s.dtype).tiny)

    return of_each(share, errors, free)


def relative(r: Array, eps: Array) -> Array:
    """||r|| / ||eps||, 0 where both vanish (a layer that the wave has not reached)."""
    r, eps = jnp.abs(r), jnp.abs(eps)
    tiny = jnp.finfo(eps.dtype).tiny
    scale = jnp.maximum(jnp.max(eps), tiny)  # the squares of small errors would underflow
    r, eps = r / scale, eps / scale
    return jnp.sqrt(jnp.sum(r * r) / jnp.maximum(jnp.sum(eps * eps), tiny))
