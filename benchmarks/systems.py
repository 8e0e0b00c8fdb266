"""Hopfield, resistive and oscillator networks under the one estimator: what carried differences are worth, what a
gradient costs, how many passes a phase takes.

    fidelity   cosine of the EP gradient with the true one (float64, implicit differentiation), differences carried or
               states measured and subtracted, products in float32 or bfloat16
    order      slope of log error against log beta in float64, smooth systems settled to rounding
    cost       XLA's FLOPs of a gradient at the recipe's passes, in units of backpropagation of the feedforward twin
    depth      the rate of a settled pass, displacement of the first block over the output's, and the smallest beta at
               which measured states (float32, one-sided) still give a cosine of .9
    passes     until a pass changes the state by 1e-3 and 1e-6, free (from the input up) and nudged (from the output
               down), in float64: the middle of five seeds, and their ends
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import epjax
from benchmarks.draw import CENTERED, GREY, ONE_SIDED, dress, figure, save
from benchmarks.fidelity import compare
from benchmarks.measure import compile_program
from benchmarks.progress import told
from benchmarks.rows import Row, Table, Target, at_least, at_most, find
from benchmarks.settings import batch
from epjax.network import Layer, Network, Params, States
from epjax.network.activation import identity, unit
from epjax.network.drive import Dense
from epjax.network.precision import Precision
from epjax.perturbation import Nudge
from epjax.systems import Hopfield, Oscillators, Relax, Resistive
from epjax.systems.chain import Chain

NAME = "systems"
COLUMNS = (
    "what",
    "system",
    "scheme",
    "beta",
    "dtype",
    "errors",
    "cosine",
    "worst_cosine",
    "slope",
    "free_passes",
    "nudged_passes",
    "layers",
    "rate",
    "decay",
    "smallest_beta",
    "flops_over_backprop",
    "repeats",
)
SE = epjax.cost.squared_error
BETAS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
SETTLED, WELL = Relax(3000, 1e-13, over="auto"), Relax(1000, 3e-7, over="auto")
CONV = "Hopfield, convolutional"


@dataclass(frozen=True)
class Case:
    """A system by its name, for products at a precision; `flat` is whether it takes an image as a vector."""

    name: str
    system: Chain

    def at(self, precision: Precision) -> Chain:
        """The same with its products at another precision."""
        if isinstance(self.system, Hopfield):
            return Hopfield(replace(self.system.net, precision=precision))
        return replace(self.system, precision=precision)  # type: ignore[type-var]


CASES = (
    Case("Hopfield", Hopfield.dense((64, 64, 10))),
    Case(CONV, Hopfield.convolutional((8, 16), (10,), gain=0.5)),
    Case("resistive A = 4", Resistive((64, 64, 10), input_gain=60.0, amplifier=4.0)),
    Case("resistive A = 1", Resistive((64, 64, 10), input_gain=1000.0)),
    Case("oscillators", Oscillators((64, 10))),
)


def run(quick: bool) -> list[Row]:
    """Fidelity, order, cost, passes."""
    empty = dict.fromkeys(COLUMNS)
    return told(empty | {"precision": row.get("dtype", "float32")} | row for row in _all(quick))


def _all(quick: bool) -> Iterator[Row]:
    x, y, data = batch("mnist", 28, 4 if quick else 8)
    x = (x - x.min()) / (x.max() - x.min())  # as pixels in [0, 1]
    about = {"data": data, "repeats": 1, "batch_size": x.shape[0]}
    for case in CASES[:1] if quick else CASES:
        params = case.system.init(jax.random.key(0), x.shape[1:])
        for row in _fidelity(case, params, x, y, BETAS[1:3] if quick else BETAS):
            yield about | row
    for name, system in list(_smooth().items())[: 1 if quick else None]:
        yield about | _order(name, system, "forward")
        yield about | _order(name, system, "centered")
    for row in _cost(x, y, quick):
        yield about | row
    for row in _passes(x, y, 2 if quick else len(SETTLING), STARTS[:1] if quick else STARTS):
        yield about | row
    for row in _depths(x, y, (2,) if quick else (2, 3, 5, 8)):
        yield about | row


def _in_float64(*trees: Any) -> Any:
    return jax.tree.map(
        lambda v: jnp.asarray(np.asarray(v), jnp.float64 if jnp.issubdtype(v.dtype, jnp.floating) else v.dtype), trees
    )


def _fidelity(case: Case, params: Params, x: Array, y: Array, betas: tuple[float, ...]) -> Iterator[Row]:
    with jax.enable_x64(True):
        wide = _in_float64(params, x, y)
        truth = jax.device_get(jax.jit(case.system.exact(SE, free=SETTLED, solve=SETTLED))(*wide, None)[1])
    for precision in ("float32", "bfloat16"):
        system = case.at(precision)  # type: ignore[arg-type]
        for errors in ("carried", "recomputed"):
            for scheme in ("forward", "centered"):
                ep = jax.jit(_ep(system, scheme, errors))
                for beta in betas:
                    gradient = ep(jnp.float32(beta), params, x, y)
                    found = compare(jax.device_get(gradient), truth)
                    yield {
                        "what": "fidelity",
                        "system": case.name,
                        "scheme": scheme,
                        "beta": beta,
                        "dtype": precision,
                        "errors": errors,
                        "cosine": found["cosine"],
                        "worst_cosine": found["worst_layer_cosine"],
                    }


def _ep(system: Chain, scheme: str, errors: Any) -> Any:
    def gradient(beta: Array, params: Params, x: Array, y: Array) -> Params:
        estimate = epjax.value_and_grad(
            system, SE, scheme=scheme, beta=beta, errors=errors, free=WELL, equilibration=WELL
        )
        return estimate(params, x, y, None)[1]

    return gradient


def _smooth() -> dict[str, Chain]:
    """Systems whose units stay inside their ranges for the inputs of `_order`."""
    sizes = (10, 8, 6, 4)
    return {
        "Hopfield": Hopfield.dense(sizes, gain=0.45),
        "resistive": Resistive(sizes, input_gain=3.0, gain=2.0),
        "oscillators": Oscillators(sizes, gain=0.4),
    }


def _order(name: str, system: Chain, scheme: str) -> Row:
    """The slope between beta = 1e-3 and 1e-4 one-sided, 3e-3 and 1e-3 centered."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(False):
        params = system.init(jax.random.key(0), (12,))
    low, high = (1e-4, 1e-3) if scheme == "forward" else (5e-4, 2e-3)
    with jax.enable_x64(True):

        def shaken(v: Any) -> Array:  # no unit at rest on its kink
            least = 0.0 if v.ndim == 2 and v.shape[0] != 2 else -0.1
            return jnp.asarray(np.asarray(v, np.float64) + rng.uniform(least, 0.1, v.shape))

        params = jax.tree.map(shaken, params)
        x, y = jnp.asarray(rng.uniform(0, 1, (3, 12))), jnp.arange(3) % 4
        truth = jax.device_get(jax.jit(system.exact(SE, free=SETTLED, solve=SETTLED))(params, x, y, None)[1])
        estimate = jax.jit(
            lambda beta: epjax.value_and_grad(
                system, SE, scheme=scheme, beta=beta, free=SETTLED, equilibration=SETTLED
            )(params, x, y, None)[1]
        )
        errors = [compare(jax.device_get(estimate(jnp.float64(b))), truth)["relative_error"] for b in (low, high)]
    slope = math.log(errors[1] / errors[0]) / math.log(high / low)
    return {"what": "order", "system": name, "scheme": scheme, "dtype": "float64", "errors": "carried", "slope": slope}


def _cost(x: Array, y: Array, quick: bool) -> Iterator[Row]:
    """At the passes of each recipe, written out so that XLA counts them all."""
    flat = Network((Layer(Dense(256), unit), Layer(Dense(10), identity)))
    twin = compile_program(epjax.backprop_value_and_grad(flat, SE), flat.init(jax.random.key(0), x.shape[1:]), x, y)
    recipes: tuple[tuple[str, Chain, int, int], ...] = (
        ("Hopfield", Hopfield.dense((256, 10)), 6, 5),
        ("Hopfield, published passes", Hopfield.dense((256, 10)), 60, 20),
        ("resistive", Resistive((256, 10), input_gain=250.0), 4, 4),
        ("oscillators", Oscillators((256, 10)), 8, 8),
    )
    for name, system, T, K in recipes[:1] if quick else recipes:
        params = system.init(jax.random.key(0), x.shape[1:])
        for scheme in ("forward", "centered"):
            ep = epjax.value_and_grad(
                system, SE, scheme=scheme, free=Relax(T, None, unroll=T), equilibration=Relax(K, None, unroll=K)
            )
            program = compile_program(lambda p, x, y, ep=ep: ep(p, x, y, None)[1], params, x, y)
            yield {
                "what": "cost",
                "system": name,
                "scheme": scheme,
                "dtype": "float32",
                "errors": "carried",
                "free_passes": f"{T}",
                "nudged_passes": f"{K}",
                "flops_over_backprop": program.flops / twin.flops,
            }


@dataclass(frozen=True)
class Settling:
    """A line of the table of passes: the system, and what was measured before, to 1e-3 and to 1e-6."""

    name: str
    system: Chain
    free: tuple[int, int]
    nudged: tuple[int, int]


def _sizes(L: int) -> tuple[int, ...]:
    return (*([128] * (L - 1)), 10)


SETTLING = (
    Settling("Hopfield gain .4, L 2", Hopfield.dense(_sizes(2)), (2, 5), (3, 7)),
    Settling("Hopfield gain .4, L 3", Hopfield.dense(_sizes(3)), (4, 10), (5, 11)),
    Settling("Hopfield gain .4, L 5", Hopfield.dense(_sizes(5)), (6, 15), (8, 18)),
    Settling("Hopfield gain .4, L 8", Hopfield.dense(_sizes(8)), (6, 19), (11, 26)),
    Settling("resistive A = 1, L 2", Resistive(_sizes(2), input_gain=1.0), (2, 3), (2, 3)),
    Settling("resistive A = 1, L 3", Resistive(_sizes(3), input_gain=1.0), (2, 5), (3, 6)),
    Settling("resistive A = 4, L 3", Resistive(_sizes(3), amplifier=4.0), (3, 8), (4, 9)),
    Settling("resistive A = 4, L 5", Resistive(_sizes(5), amplifier=4.0), (3, 8), (5, 10)),
    Settling("oscillators, L 2", Oscillators(_sizes(2)), (3, 9), (5, 11)),
    Settling("oscillators, L 3", Oscillators(_sizes(3)), (12, 57), (26, 76)),
    Settling("oscillators, L 5", Oscillators(_sizes(5)), (0, 0), (50, 209)),
)
"""Before: SYSTEMS_NUMBERS, one seed, prototypes; (0, 0) where there is no number."""


STARTS = range(5)
"""Seeds of the initial weights over which passes are counted."""
MOST_PASSES = 400


def _passes(x: Array, y: Array, count: int, seeds: Sequence[int] = STARTS) -> Iterator[Row]:
    """Of each seed the mean over the batch; of the seeds the middle and the ends."""
    for line in SETTLING[:count]:
        found = np.array([_count(line.system, seed, x, y) for seed in seeds])  # [seed, phase, tolerance]
        (free, nudged), least, most = np.median(found, axis=0), found.min(axis=0), found.max(axis=0)
        told = [
            " / ".join(f"{m:.0f} ({a:.0f}-{b:.0f})" for m, a, b in zip(middle, least[i], most[i], strict=True))
            for i, middle in enumerate((free, nudged))
        ]
        yield {
            "what": "passes",
            "system": line.name,
            "dtype": "float64",
            "free_passes": told[0],
            "nudged_passes": told[1],
            "free": free.tolist(),
            "nudged": nudged.tolist(),
            "least": least.tolist(),
            "most": most.tolist(),
            "seeds": list(seeds),
            "free_before": list(line.free),
            "nudged_before": list(line.nudged),
        }


def _count(system: Chain, seed: int, x: Array, y: Array) -> list[list[float]]:
    """Passes of the free phase from its start, and of differences from a settled one, to either tolerance.

    As SYSTEMS_NUMBERS counts: until a pass changes all blocks together by less than that share of them, the norms over
    the whole state. (`Relax` asks it of every block, which a small or a slow one may take some passes more for.)
    """
    with jax.enable_x64(False):
        params = system.init(jax.random.key(seed), x.shape[1:])
    with jax.enable_x64(True):
        params, x, y = _in_float64(params, x, y)
        free, nudged = jax.jit(jax.vmap(partial(_changes, system, params)))(x, y)
    return [[float(np.mean(_first_below(np.asarray(c), t))) for t in (1e-3, 1e-6)] for c in (free, nudged)]


def _changes(system: Chain, params: Params, x: Array, y: Array) -> tuple[Array, Array]:
    """||s_i - s_(i-1)|| / ||s_i|| over the whole state at every pass i: of states when free, of differences nudged."""
    one = Relax(1, None)

    def share(new: States, old: States) -> Array:
        moved, all_of_it = (sum(jnp.sum(v * v) for v in tree) for tree in (jax.tree.map(jnp.subtract, new, old), new))
        return jnp.sqrt(moved / all_of_it)

    def a_pass(s: States, _: Any) -> tuple[States, Array]:
        new = system.free(params, x, one, s).states
        return new, share(new, s)

    free = jax.lax.scan(a_pass, system.start(params, x), None, length=MOST_PASSES)[1]
    rest = system.free(params, x, Relax(2000, 1e-12, over="auto"))
    nudge = Nudge(SE, y, jnp.float64(1e-3))

    def a_nudged_pass(d: States, _: Any) -> tuple[States, Array]:
        new = system.differences(params, rest, nudge, one, d).blocks
        return new, share(new, d)

    none = jax.tree.map(jnp.zeros_like, rest.states)
    return free, jax.lax.scan(a_nudged_pass, none, None, length=MOST_PASSES)[1]


def _first_below(changes: np.ndarray, tolerance: float) -> np.ndarray:
    """[B, passes] -> passes until the change is below the tolerance; all of them where it never is."""
    below = changes < tolerance
    return np.where(below.any(axis=1), below.argmax(axis=1), changes.shape[1])


def _depths(x: Array, y: Array, depths: tuple[int, ...]) -> Iterator[Row]:
    """Where the systems themselves end: settling, decay of the signal, the smallest nudge that can be measured."""
    for L in depths:
        systems: dict[str, Chain] = {
            "Hopfield": Hopfield.dense(_sizes(L)),
            "resistive": Resistive(_sizes(L), input_gain=250.0),
            "oscillators": Oscillators(_sizes(L)),
        }
        for name, system in systems.items():
            params = system.init(jax.random.key(0), x.shape[1:])
            rate, decay = _rate_and_decay(system, params, x, y)
            yield {
                "what": "depth",
                "system": name,
                "layers": L,
                "rate": rate,
                "decay": decay,
                "smallest_beta": _smallest(system, params, x, y),
            }


def _rate_and_decay(system: Chain, params: Params, x: Array, y: Array) -> tuple[float, float]:
    """The median of the last changes' ratio, and || d_1 || / || d_L ||, in float64; means over the batch."""
    with jax.enable_x64(True):
        params, x, y = _in_float64(params, x, y)

        def one(x: Array, y: Array) -> tuple[Array, Array]:
            rest = system.free(params, x, Relax(3000, 1e-12, over="auto"))
            nudge = Nudge(SE, y, jnp.float64(1e-4))
            found = system.nudged(params, rest, nudge, Relax(40, None, trace=True), "carried")
            far = system.nudged(params, rest, nudge, Relax(2000, 1e-10, over="auto"), "carried").errors
            assert found.changes is not None
            assert far is not None
            seen = jnp.where(found.changes > 1e-12, found.changes, jnp.nan)
            ratio = jnp.nanmedian((seen[1:] / seen[:-1])[-20:])
            ratio = jnp.where(jnp.isnan(ratio), jnp.nanmedian(seen[1:] / seen[:-1]), ratio)
            return ratio, jnp.linalg.norm(far[0].ravel()) / jnp.linalg.norm(far[-1].ravel())

        rate, decay = jax.jit(jax.vmap(one))(x, y)
        return float(jnp.nanmean(rate)), float(decay.mean())


def _smallest(system: Chain, params: Params, x: Array, y: Array) -> float:
    """The smallest power of ten; NaN where none is small enough for the bias and large enough to be measured."""
    with jax.enable_x64(True):
        wide = _in_float64(params, x, y)
        truth = jax.device_get(jax.jit(system.exact(SE, free=SETTLED, solve=SETTLED))(*wide, None)[1])
    ep = jax.jit(_ep(system, "forward", "recomputed"))
    usable = []
    for beta in BETAS:
        gradient = jax.device_get(ep(jnp.float32(beta), params, x, y))
        finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
        if finite and compare(gradient, truth)["worst_layer_cosine"] >= 0.9:
            usable.append(beta)
    return min(usable, default=math.nan)


def targets(rows: list[Row]) -> Iterator[Target]:
    """Those of the issue that asked for them."""
    fidelity = find(rows, what="fidelity", errors="carried")
    for dtype, least in (("float32", 0.9999), ("bfloat16", 0.995)):
        small = [r for r in fidelity if r["dtype"] == dtype and r["beta"] <= 1e-3]
        for system in dict.fromkeys(r["system"] for r in small):
            worst = min(r["cosine"] for r in small if r["system"] == system)
            yield at_least(f"{system}, carried, {dtype}: cosine at every beta <= 1e-3", worst, least)
    for row in find(rows, what="order"):
        order = 1 if row["scheme"] == "forward" else 2
        name = f"{row['system']}, {row['scheme']}: order {order} in beta"
        yield at_most(f"{name}, distance of the slope", abs(row["slope"] - order), 0.1)
    for row in find(rows, what="passes"):
        for kind in ("free", "nudged"):
            for n, before, residual in zip(row[kind], row[f"{kind}_before"], ("1e-3", "1e-6"), strict=True):
                if before:
                    limit = max(1.2 * before, before + 1)
                    yield at_most(f"{row['system']}: {kind} passes to {residual}, before {before}", n, limit)


def tables(rows: list[Row]) -> list[Table]:
    """A table for each question."""
    columns = {
        "fidelity": ("system", "scheme", "beta", "dtype", "errors", "cosine", "worst_cosine"),
        "order": ("system", "scheme", "slope"),
        "cost": ("system", "scheme", "free_passes", "nudged_passes", "flops_over_backprop"),
        "passes": ("system", "free_passes", "nudged_passes"),
        "depth": ("system", "layers", "rate", "decay", "smallest_beta"),
    }
    return [Table(name, shown, find(rows, what=name)) for name, shown in columns.items() if find(rows, what=name)]


def draw(rows: list[Row], path: Path) -> None:
    """Cosine against beta, carried and subtracted."""
    shown = [c.name for c in CASES if find(rows, what="fidelity", system=c.name)]
    title = "Differences carried keep the gradient at any beta; subtracted states lose it"
    fig, axes = figure(
        title, "one-sided EP beside the exact gradient in float64", (1, len(shown)), (3.2 * len(shown), 3.6)
    )
    looks = {
        ("carried", "float32"): (CENTERED, "-"),
        ("carried", "bfloat16"): (ONE_SIDED, "-"),
        ("recomputed", "float32"): (GREY, "--"),
        ("recomputed", "bfloat16"): (GREY, ":"),
    }
    for axis, system in zip(axes[0], shown, strict=True):
        for (errors, dtype), (colour, line) in looks.items():
            found = find(rows, what="fidelity", system=system, scheme="forward", errors=errors, dtype=dtype)
            name = f"{'carried' if errors == 'carried' else 'subtracted'}, {dtype}"
            at = [r["beta"] for r in found], [r["cosine"] for r in found]
            axis.semilogx(*at, line, color=colour, marker="o", markersize=3, label=name)
        dress(axis, system, "beta", "cosine" if system == shown[0] else "", legend=system == shown[0])
        axis.set_ylim(-0.25, 1.05)
    save(fig, path)
