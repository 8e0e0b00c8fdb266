"""What a system asks of its hardware, before anything is trained: reads, bits, and the beta that suits them.

    E ||g_hat - g||^2 = bias(beta)^2 + noise(sigma)^2 / beta^2

g is the exact gradient, both terms relative to ||g||. bias is what an estimate lacks without noise, noise(sigma) is
beta times the deviation that read noise sigma gives it; both are measured. A small beta drowns in noise, a large one
leaves the gradient: between them is the best.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from epjax.checks import check_batch
from epjax.cost import Cost, as_cost
from epjax.estimator import exact_value_and_grad, value_and_grad
from epjax.hardware.device import Device
from epjax.hardware.values import check_least
from epjax.network import Params
from epjax.shapes import Array

COSINE = 0.9
"""What the gradient's cosine with the exact one must not fall below."""
BETAS = tuple(float(b) for b in np.logspace(-3.5, 0.0, 15))
"""Strengths at which the bias is measured, four to a decade."""
LOST = 1e30
"""The bias of an estimate that is not finite."""
LEAST, MOST = 1e-9, 10.0
"""Read noise between which the bisection looks."""


@dataclass(frozen=True)
class Budget:
    """What a system asks of its hardware. Layers count from the input; noise is relative to a layer's RMS.

    rms [L] and displacement [L] are the RMS of the free state and of the nudged one's displacement at `beta`, in the
    unit of the state. `critical_noise` is the read noise at which the cosine with the exact gradient falls to 0.9, 0
    where it is below without noise; `bits` [L] has a converter's over the layer's own range whose rounding is as large,

        b = log2(1 + (max s - min s) / (sqrt(12) critical_noise RMS(s)))

    infinite where no converter will do. `biases` are bias(beta) at `betas`; `bias` is that at `beta`, `noise` is
    noise(sigma) at `read_noise`; `best_beta` has the smallest `error` of those, `cosine` is measured at beta.
    """

    beta: float
    read_noise: float
    rms: tuple[float, ...]
    displacement: tuple[float, ...]
    critical_noise: float
    bits: tuple[float, ...]
    cosine: float
    bias: float
    noise: float
    betas: tuple[float, ...]
    biases: tuple[float, ...]
    best_beta: float

    def error(self, beta: float) -> float:
        """The relative RMS error sqrt(bias(beta)^2 + noise^2 / beta^2), bias interpolated between the betas measured.

        Raises ValueError for a beta outside of them.
        """
        if not self.betas[0] <= beta <= self.betas[-1]:
            raise ValueError(f"beta must lie between {self.betas[0]:g} and {self.betas[-1]:g}, got {beta:g}")
        return float(_rms_error(np.array([beta]), self.betas, self.biases, self.noise)[0])

    @property
    def verdict(self) -> str:
        """One sentence."""
        said, best = f"read noise {self.read_noise:.1e} at beta {self.beta:.2g}", f"best beta {self.best_beta:.2g}"
        if self.cosine >= COSINE:
            spare = self.critical_noise / self.read_noise if self.read_noise else np.inf
            more = f"{spare:.2g} times more would be borne" if np.isfinite(spare) else "there is none"
            return f"It can learn: {said} leaves a cosine of {self.cosine:.3f}, {more}; {best}."
        if not self.critical_noise:
            return f"Not at this beta: without noise the cosine is below {COSINE} at beta {self.beta:.2g}; {best}."
        return (
            f"Not at this beta: {said} leaves a cosine of {self.cosine:.2f}, {self.critical_noise:.1e} is allowed; "
            f"{best}, where the gradient's error is {self.error(self.best_beta):.2g} of it."
        )

    def __str__(self) -> str:
        rows = [f"{'layer':>5}  {'RMS state':>9}  {'displaced':>9}  {'read noise':>10}  {'bits':>5}"]
        for k, (rms, d, bits) in enumerate(zip(self.rms, self.displacement, self.bits, strict=True), start=1):
            rows.append(f"{k:>5}  {rms:>9.2e}  {d:>9.2e}  {self.critical_noise * rms:>10.1e}  {bits:>5.1f}")
        facts = f"bias {self.bias:.2g}, noise {self.noise / self.beta:.2g} of the gradient"
        return "\n".join([*rows, f"beta {self.beta:.3g}: {facts}, cosine {self.cosine:.3f}", self.verdict])


def budget(
    system: Any,
    params: Params,
    x: Array,
    y: Array,
    cost: Cost | str,
    *,
    beta: float = 0.05,
    read_noise: float = 1e-3,
    scheme: str = "centered",
    equilibration: Any = None,
    free: Any = None,
    draws: int = 8,
    key: Array | None = None,
) -> Budget:
    """What `system`, ideal or a `Device`, asks of its hardware for the gradient of a batch x [B, ...], y [B].

    The gradient is that of the batch's mean cost, so that noise falls with sqrt(B); `read_noise` is relative to the RMS
    of each layer's state. Of a Device all options but its own noise are kept, and the exact gradient is the device's
    own. Cosines and noise are means over `draws` of the noise from `key` (default key(0)). `scheme`, `equilibration`
    and `free` are those of `epjax.value_and_grad`. Raises ValueError as it does, and for negative noise, fewer draws
    than one, and a gradient that is zero or not finite.
    """
    check_least("read_noise", read_noise, 0)
    check_least("draws", draws, 1)
    device = system if isinstance(system, Device) else Device(system)
    key = jax.random.key(0) if key is None else key
    check_batch(device, as_cost(cost), params, x, y, key=key)  # where they have values
    g = _flat(jax.jit(exact_value_and_grad(device, cost, free=free))(params, x, y, None)[1])
    if not (np.all(np.isfinite(g)) and np.any(g != 0)):
        raise ValueError("params, x and y must give a gradient that is finite and not zero, but the exact one is not")

    def make(beta: Any, sigma: Any) -> Callable[..., Any]:
        return value_and_grad(
            replace(device, read_noise=sigma, noise_floor=0.0),
            cost,
            scheme=scheme,
            beta=beta,
            equilibration=equilibration,
            free=free,
            errors="recomputed",
            keep_states=True,
        )

    make(beta, read_noise)  # refuses what cannot be, before anything is traced

    @jax.jit
    def estimates(params: Params, x: Array, y: Array, beta: Array, sigma: Array) -> tuple[Array, Any]:
        keys = jax.random.split(key, int(draws))
        ((_, aux), grads) = jax.vmap(partial(make(beta, sigma), params, x, y))(keys)
        return jax.vmap(_ravel)(grads), jax.tree.map(lambda h: h[0], aux.solution.h)

    def measured(beta: float, sigma: float) -> np.ndarray:
        return np.asarray(
            estimates(params, x, y, jnp.asarray(beta, x.dtype), jnp.asarray(sigma, x.dtype))[0], np.float64
        )

    def cosine(sigma: float) -> float:
        found = measured(beta, sigma)
        return float(np.mean(found @ g / (np.linalg.norm(found, axis=1) * np.linalg.norm(g))))

    ideal, noisy = measured(beta, 0.0), measured(beta, read_noise)
    norm = float(np.linalg.norm(g))
    noise = float(np.sqrt(np.mean(np.sum((noisy - ideal) ** 2, axis=1)))) * beta / norm
    biases = tuple(_norm(measured(b, 0.0)[0] - g) / norm for b in BETAS)
    at_rest = jax.vmap(lambda x: replace(device, adc=None).free(params, x, free).states)(x)
    nudged = estimates(params, x, y, jnp.asarray(beta, x.dtype), jnp.zeros((), x.dtype))[1]
    rms = tuple(float(jnp.sqrt(jnp.mean(s**2))) for s in at_rest)
    moved = tuple(float(jnp.sqrt(jnp.mean((h - s[:, None]) ** 2))) for h, s in zip(nudged, at_rest, strict=True))
    critical = _bisect(cosine)
    return Budget(
        beta=float(beta),
        read_noise=float(read_noise),
        rms=rms,
        displacement=moved,
        critical_noise=critical,
        bits=tuple(_bits(s, r * critical) for s, r in zip(at_rest, rms, strict=True)),
        cosine=cosine(read_noise),
        bias=_norm(ideal[0] - g) / norm,
        noise=noise,
        betas=BETAS,
        biases=biases,
        best_beta=_best(BETAS, biases, noise),
    )


def _bisect(cosine: Callable[[float], float]) -> float:
    """The read noise at which the cosine falls to COSINE, to 3%; 0 where it is below even without."""
    low, high = np.log(LEAST), np.log(MOST)
    if not cosine(0.0) >= COSINE:
        return 0.0
    if cosine(MOST) >= COSINE:
        return MOST
    while high - low > 0.03:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if cosine(float(np.exp(middle))) >= COSINE else (low, middle)
    return float(np.exp(0.5 * (low + high)))


def _bits(s: Array, sigma: float) -> float:
    """The converter over the layer's range whose rounding has the variance sigma^2."""
    span = float(jnp.max(s) - jnp.min(s))
    return float(np.log2(1 + span / (12**0.5 * sigma))) if sigma else float("inf")


def _rms_error(betas: np.ndarray, known: tuple[float, ...], biases: tuple[float, ...], noise: float) -> np.ndarray:
    tiny = np.finfo(np.float64).tiny
    bias = np.exp(np.interp(np.log(betas), np.log(known), np.log(np.maximum(biases, tiny))))
    return np.hypot(bias, noise / betas)  # type: ignore[no-any-return]


def _best(known: tuple[float, ...], biases: tuple[float, ...], noise: float) -> float:
    fine = np.exp(np.linspace(np.log(known[0]), np.log(known[-1]), 401))
    fine = np.clip(fine, known[0], known[-1])
    return float(fine[int(np.argmin(_rms_error(fine, known, biases, noise)))])


def _norm(v: np.ndarray) -> float:
    """||v||, or a large number where an estimate has none: past the end of a negative phase."""
    sound = np.all(np.isfinite(v)) and np.max(np.abs(v)) < LOST
    return float(np.linalg.norm(v)) if sound else LOST


def _ravel(tree: Any) -> Array:
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


def _flat(tree: Any) -> np.ndarray:
    return np.asarray(_ravel(tree), np.float64)
