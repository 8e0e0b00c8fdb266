"""What a system asks of its hardware, before anything is trained: reads, bits, and the beta that suits them.

    E ||g_hat - g||^2 = bias(beta)^2 + noise(sigma)^2 / beta^2

g is the exact gradient, both terms relative to ||g||. bias is what an estimate lacks without noise, noise(sigma) is
beta times the deviation that read noise sigma gives it; both are measured. A small beta drowns in noise, a large one
leaves the gradient: between them is the best.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from epjax.checks import check_batch
from epjax.cost import Cost, as_cost
from epjax.estimator import exact_value_and_grad, value_and_grad
from epjax.hardware.device import Device
from epjax.hardware.reading import Adc
from epjax.hardware.values import check_least
from epjax.network import Params
from epjax.shapes import Array
from epjax.systems import PCN, Relax
from epjax.systems.chain import Chain
from epjax.systems.pcn import Sweep

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

    infinite where no converter will do. `layer_noise` [L] and `layer_bits` [L] are what the cosine of each layer's own
    gradient bears, found by bisection as well: the noise of all reads, and converters of all layers over their own
    ranges (25 where 24 bits will not do; NaN where a layer has no parameters). `passes` are those of the free and of
    the nudged phase until what is left is below the gradient's error at the best beta. `energy` [L] is 1/2 kappa d^2 of
    a unit, the work of its displacement d at a stiffness kappa: k_B T must be well below; NaN where it is not known.
    `biases` are bias(beta) at `betas`; `bias` is that at `beta`, `noise` is
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
    layer_noise: tuple[float, ...] = ()
    layer_bits: tuple[float, ...] = ()
    passes: tuple[int, int] = (0, 0)
    energy: tuple[float, ...] = ()

    @property
    def can_learn(self) -> bool:
        """Whether the cosine at this beta and noise is large enough."""
        return self.cosine >= COSINE

    def draw(self, path: str | Path) -> None:
        """One picture, a PNG: the error over beta, and what each layer gives to read. Loads matplotlib."""
        from epjax.hardware.picture import draw_budget

        draw_budget(self, Path(path))

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
        if self.can_learn:
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
        rows = [f"{'layer':>5}  {'RMS state':>9}  {'displaced':>9}  {'read noise':>10}  {'bits':>4}  {'energy':>8}"]
        columns = (self.rms, self.displacement, self.layer_noise, self.layer_bits, self.energy)
        for k, (rms, d, noise, bits, energy) in enumerate(zip(*columns, strict=True), start=1):
            rows.append(f"{k:>5}  {rms:>9.2e}  {d:>9.2e}  {noise * rms:>10.1e}  {bits:>4.0f}  {energy:>8.1e}")
        free, nudged = self.passes
        rows.append(
            f"passes to settle: {free} free, {nudged} nudged; all reads may have noise {self.critical_noise:.1e}"
        )
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
    device = replace(system, noise_floor=0.0) if isinstance(system, Device) else Device(system)
    key = jax.random.key(0) if key is None else key
    check_batch(device, as_cost(cost), params, x, y, key=key)  # where they have values
    g = _flat(jax.jit(exact_value_and_grad(device, cost, free=free))(params, x, y, None)[1])
    if not (np.all(np.isfinite(g)) and np.any(g != 0)):
        raise ValueError("params, x and y must give a gradient that is finite and not zero, but the exact one is not")

    def make(beta: Any, sigma: Any) -> Callable[..., Any]:
        return make_of(replace(device, read_noise=sigma), beta)

    def make_of(device: Device, beta: Any) -> Callable[..., Any]:
        return value_and_grad(
            device,
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
        return np.asarray(  # [draws, parameters]
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
    layers = _Layers(g, [sum(v.size for v in jax.tree.leaves(theta)) for theta in params])
    ranges = tuple(jnp.asarray([f(s) for s in at_rest]) for f in (jnp.min, jnp.max))

    @jax.jit
    def converted(params: Params, x: Array, y: Array, bits: Array) -> Array:
        low, high = ranges
        wide = 0.05 * (high - low) + jnp.finfo(x.dtype).tiny  # a nudge moves the ends
        ideal = replace(device, read_noise=0.0, noise_floor=0.0, adc=Adc(bits, low - wide, high + wide))
        return _ravel(make_of(ideal, beta)(params, x, y, key)[1])

    def noisy_layers(sigma: float) -> np.ndarray:
        return np.mean([layers.cosines(g) for g in measured(beta, sigma)], axis=0)  # type: ignore[no-any-return]

    def coarse_layers(bits: float) -> np.ndarray:
        return layers.cosines(np.asarray(converted(params, x, y, jnp.asarray(bits, x.dtype)), np.float64))

    noisy_of, coarse_of = cache(noisy_layers), cache(coarse_layers)
    best = _best(BETAS, biases, noise)
    accuracy = float(np.clip(_rms_error(np.array([best]), BETAS, biases, noise)[0], 1e-4, 0.5))
    return Budget(
        layer_noise=tuple(_bisect(_of(noisy_of, k)) for k in range(len(rms))),
        layer_bits=tuple(_bisect_bits(_of(coarse_of, k)) for k in range(len(rms))),
        passes=_passes(device, cost, scheme, params, x, y, key, beta, accuracy),
        energy=_energies(device, params, x, free, moved),
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
        best_beta=best,
    )


@dataclass(frozen=True)
class _Layers:
    """The exact gradient, cut into the layers' own."""

    exact: np.ndarray
    sizes: list[int]

    def cosines(self, found: np.ndarray) -> np.ndarray:
        """Of each layer; NaN where it has no parameters."""
        ends = np.cumsum(self.sizes)[:-1]
        pairs = zip(np.split(found, ends), np.split(self.exact, ends), strict=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.array([a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in pairs])


def _of(cosines: Callable[[float], np.ndarray], k: int) -> Callable[[float], float]:
    return lambda value: float(cosines(value)[k])


def _bisect_bits(cosine: Callable[[float], float]) -> float:
    """The fewest whole bits whose cosine is at least COSINE; 25 where 24 will not do, NaN where there is no cosine."""
    low, high = 0, 25
    if np.isnan(cosine(24.0)):
        return float("nan")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if cosine(float(middle)) >= COSINE else (middle, high)
    return float(high)


def _passes(
    device: Device,
    cost: Cost | str,
    scheme: str,
    params: Params,
    x: Array,
    y: Array,
    key: Array,
    beta: float,
    accuracy: float,
) -> tuple[int, int]:
    """Passes of the free and the nudged phase, of the slowest example, until what is left is below `accuracy`.

    What the free phase lacks is divided by beta. A system that is not known to settle has none.
    """
    system, params = device.system, device.couplings(params)
    if not isinstance(system, Chain | PCN):
        return 0, 0
    floor = 8 * float(jnp.finfo(x.dtype).eps)
    smooth = isinstance(system, PCN) and any(layer.activation.bounds is None for layer in system.net.layers)
    way: Any = Relax(1000, max(accuracy, floor))
    if isinstance(system, PCN):
        way = Sweep(50, max(accuracy, floor), update="pgd" if smooth else "mod_pgd")
    at_rest = None if isinstance(system, PCN) else Relax(1000, max(accuracy * beta, floor))
    ideal = value_and_grad(system, cost, scheme=scheme, beta=beta, equilibration=way, free=at_rest, errors="carried")
    (_, aux), _ = jax.jit(ideal)(params, x, y, key)
    assert aux.solution is not None
    return 0 if aux.free is None else int(aux.free.iterations.max()), int(aux.solution.iterations.max())


def _energies(device: Device, params: Params, x: Array, free: Any, moved: tuple[float, ...]) -> tuple[float, ...]:
    """1/2 <kappa> d^2 of a unit of each layer, d its RMS displacement."""
    system, w = device.system, device.couplings(params)
    if isinstance(system, PCN):
        stiff = system.precisions or (1.0,) * len(moved)
    elif isinstance(system, Chain):

        def one(x: Array) -> Array:
            rest = system.free(w, x, free)
            found = (system.stiffness(z, system.scale(w, k)) for k, z in enumerate(rest.fields, start=1))
            return jnp.stack([jnp.mean(kappa) for kappa in found])

        stiff = tuple(map(float, jax.jit(jax.vmap(one))(x).mean(axis=0)))
    else:
        stiff = (float("nan"),) * len(moved)
    return tuple(0.5 * kappa * d * d for kappa, d in zip(stiff, moved, strict=True))


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
