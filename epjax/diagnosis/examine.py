"""What ails an EP gradient: beside the exact one, layer by layer, with errors, kinks and residuals.

    cosine       <g, b> / (||g|| ||b||), norm ratio ||g|| / ||b||, of the EP gradient g and the exact one b, which for a
                 network is backpropagation's
    error        ||eps_k|| / ||h_k||, over all examples and phases; beside what one rounding of h_k is
    crossings    share of the switches of a layer (gates of ReLU, routes of max-pool) that stand otherwise in a nudged
                 state than in the free one
    residual     of the state before every iteration and after the last, a mean over examples and phases
    softness     lambda_max(chi C''): beta times it is q, the order of the bias; a negative phase exists where q < 1

Where the gradient is off, the fault is found by trial: the gradient is taken again at beta / 10, at 10 beta, with more
iterations, and with a longer free phase where that is iterated; what brings it nearer to the exact one is what was
wrong. A gradient that vanishes or is not finite has no direction to compare: it gets a verdict of its own. So have a
negative phase that does not exist and states that jumped, which are seen without a trial.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from epjax.checks import check_batch
from epjax.cost import Cost, as_cost, cross_entropy
from epjax.diagnosis.report import WHOLE, WORST, Diagnosis, FreeReport, LayerReport, Verdict
from epjax.diagnosis.susceptibility import largest
from epjax.estimator import USUAL_BETA, exact_value_and_grad, value_and_grad
from epjax.network import Network, Params
from epjax.scheme import as_scheme
from epjax.systems import Relax, System, as_equilibration, as_system, layer_by_layer
from epjax.systems.pcn.sweep import Sweep
from epjax.systems.pcn.traversal import Async, Sync
from epjax.systems.solution import Solution
from epjax.systems.system import Aux

Diagnose = Callable[[Params, Array, Array, Array | None], Diagnosis]


def diagnose(
    net: Network | System, params: Params, x: Array, y: Array, *, key: Array | None = None, **options: Any
) -> Diagnosis:
    """What an EP gradient of a batch is worth, and what to change: `options` as in `diagnoser`.

    x [B, ...], y [B] or [B, classes]; a few dozen examples are enough. Costs a gradient by EP and the exact one, and
    where the verdict is not "good" three or four more by EP. Raises ValueError for what `value_and_grad` refuses; a
    gradient that vanishes or is not finite is a verdict.
    """
    return diagnoser(net, **options)(params, x, y, key)


@dataclass(frozen=True)
class _Seen:
    """Of one gradient by EP: sums by layer beside the exact one, then what `_look` saw."""

    sums: list[np.ndarray]
    layers: Any
    residuals: Any
    free: Any
    jumps: Any


def diagnoser(
    net: Network | System,
    *,
    cost: Cost | str = cross_entropy,
    beta: float | None = None,
    equilibration: Any = None,
    free: Any = None,
    **options: Any,
) -> Diagnose:
    """`diagnose` as a function (params, x, y, key) whose programs are compiled once; options of `value_and_grad`."""
    net = layer_by_layer(net)  # what is told is told of each
    system, cost = as_system(net), as_cost(cost)
    beta = USUAL_BETA[options.get("errors", "carried")] if beta is None else beta
    method = _method(system, beta, equilibration, options)
    usual = system.default_free() if free is None else free
    value_and_grad(net, cost, beta=beta, equilibration=method, free=usual, **options)  # refuses a wrong option now
    settled = None if usual is None else _longer(usual)
    exact_of = jax.jit(exact_value_and_grad(net, cost, free=settled))
    soft = jax.jit(jax.vmap(partial(largest, system, cost, free=settled), in_axes=(None, 0, 0)))
    layers_of = getattr(system, "by_layer", lambda grads: grads)  # those of a system are one entry a layer
    reference = "backpropagation's" if usual is None else "the exact gradient's"
    scheme = as_scheme(options.get("scheme", "centered"), options.get("points", 1))
    strongest = 1.0 if scheme.random_sign else float(np.max(-np.real(scheme.s), initial=0.0))

    @partial(jax.jit, static_argnums=(0, 1))
    def ep(method: Any, free: Any, beta: Array, params: Params, x: Array, y: Array, key: Array | None) -> Any:
        estimate = value_and_grad(
            net, cost, beta=beta, equilibration=_watched(method), free=free, keep_states=True, **options
        )
        (_, aux), grads = estimate(params, x, y, key)
        assert aux.solution is not None
        return grads, *_look(system, params, x, aux, free)

    def run(params: Params, x: Array, y: Array, key: Array | None = None) -> Diagnosis:
        x, y = check_batch(system, cost, params, x, y)
        exact = jax.device_get(exact_of(params, x, y, None)[1])

        def at(strength: float, method: Any, free: Any) -> _Seen:
            strength = min(strength, float(jnp.finfo(x.dtype).max))
            grads, *seen = jax.device_get(ep(method, free, jnp.asarray(strength, x.dtype), params, x, y, key))
            return _Seen([_sums(g, b) for g, b in zip(layers_of(grads), layers_of(exact), strict=True)], *seen)

        seen = at(beta, method, usual)
        gradients = [_compare(s) for s in seen.sums]
        whole = _compare(np.sum(seen.sums, axis=0))
        found = [LayerReport(*g, *map(float, seen)) for g, seen in zip(gradients, seen.layers, strict=True)]
        rounding = float(jnp.finfo(x.dtype).eps)
        cosine, ratio = (np.nan if v is None else v for v in whole)
        report = Diagnosis(
            *("good", "", beta, cosine, ratio, tuple(found), tuple(map(float, seen.residuals)), rounding),
            softness=float(jnp.max(soft(params, x, y))),
            jumps=float(seen.jumps),
            free=None if seen.free is None else _told(*seen.free),
            reference=reference,
        )
        verdict = _without_direction(report, exact, params=params, x=x)
        if verdict is None:
            trial = _Trials(lambda *options: _distance(at(*options).sums), method, usual)
            verdict = _judge(report, _distance(seen.sums), trial, strongest)
        return replace(report, verdict=verdict[0], advice=verdict[1])

    return run


Method = Async | Sync | Sweep | Relax


def _method(system: System, beta: Any, equilibration: Any, options: Iterable[str]) -> Method:
    """The equilibration. Raises ValueError for what `value_and_grad` takes and a diagnosis cannot."""
    if np.ndim(beta) != 0:
        raise ValueError(f"beta must be one number for a diagnosis, got shape {np.shape(beta)}")
    for name in {"argnums", "keep_states"} & set(options):
        raise ValueError(f"{name} must be left to the diagnosis, which looks at the parameters' gradient")
    method = system.default_equilibration() if equilibration is None else as_equilibration(equilibration)
    if not isinstance(method, Method):
        allowed = "a Sweep, Async, Sync or Relax, or its name, for a diagnosis"
        raise ValueError(f"equilibration must be {allowed}, got {method!r}")
    return method


def _watched(method: Method) -> Method:
    """The equilibration, measuring its residual, iteration by iteration."""
    known = {f.name for f in fields(method)}
    watched: Any = dict.fromkeys(known & {"residual", "trace"}, True)
    return replace(method, **watched)


def _look(system: System, params: Params, x: Array, aux: Aux, method: Any) -> tuple[Any, Array, Any, Array]:
    """Errors and crossings by layer, residuals by iteration, the free phase, the share of phases that jumped."""
    nudged = aux.solution
    assert nudged is not None
    assert nudged.h is not None
    free = jax.vmap(lambda x: system.free(params, x, method).states)(x)
    errors = nudged.errors or tuple(b - s[:, None] for b, s in zip(nudged.h, free, strict=True))
    one = jax.vmap(partial(system.crossings, params), in_axes=(None, None, 0))
    crossings = jax.vmap(one)(x, free, nudged.h).mean(axis=(0, 1))
    sizes = [_norm(e) / (_norm(s) * e.shape[1] ** 0.5) for e, s in zip(errors, free, strict=True)]
    layers = list(zip(sizes, crossings, strict=True))
    jumps = jax.vmap(jax.vmap(system.jumped))(errors).mean(dtype=jnp.float32)
    return layers, _residuals(nudged), None if aux.free is None else _free(aux.free), jumps


def _free(settled: Solution) -> tuple[Array, Array, Array | None]:
    assert settled.residual is not None
    converged = None if settled.converged is None else settled.converged.mean(dtype=jnp.float32)
    return settled.residual.max(), settled.iterations.max(), converged


def attempt(diagnose: Diagnose, params: Params, *batch: Any) -> Diagnosis:
    """A diagnosis that never ends the run which asked for it: what goes wrong, memory too, is verdict "not done"."""
    try:
        return diagnose(params, *batch)
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        known = len(params) if isinstance(params, Sequence) else 0  # a user's own pytree has no entry a layer
        layers = (LayerReport(None, None, np.nan, np.nan),) * known
        return Diagnosis("not done", reason, np.nan, np.nan, np.nan, layers, (np.nan,), np.nan)


def _without_direction(report: Diagnosis, exact: Any, **given: Any) -> tuple[Verdict, str] | None:
    """Verdict and advice where the exact gradient vanishes or is not finite."""
    name = _gradient(report)
    if not _all_finite(exact):
        wrong = [name for name, tree in given.items() if not _all_finite(jax.device_get(tree))]
        runs_away = "the energy runs away: bound the units, or start from a smaller gain"
        overflow = "the cost or an activation overflows" if report.free is None else runs_away
        cause = f"{' and '.join(wrong)} hold numbers that are not" if wrong else overflow
        return "not finite", f"{name} is not finite, for {cause}"
    if not any(np.any(leaf) for leaf in jax.tree.leaves(exact)):
        what = "no layer has parameters" if not jax.tree.leaves(exact) else "the cost does not depend on the parameters"
        return "no gradient", f"{name} is zero, for {what} here: look for dead units or a flat cost"
    return None


def _gradient(report: Diagnosis) -> str:
    return "the exact gradient" if report.free is not None else "backpropagation's gradient"


def _all_finite(tree: Any) -> bool:
    return all(np.isfinite(np.asarray(leaf, np.float64)).all() for leaf in jax.tree.leaves(tree))


@dataclass(frozen=True)
class _Trials:
    """The gradient's distance from the exact one when something is changed."""

    distance: Callable[[float, Any, Any], float]
    method: Any
    free: Any

    def run(self, report: Diagnosis) -> dict[Verdict, tuple[float, str]]:
        """By the verdict that each of them would stand for: the distance, and the advice."""
        beta, residual = report.beta, report.residuals[-1]
        more = _more(self.method, len(report.layers))
        what = "Sweep" if report.free is None else "over-relax"
        found: dict[Verdict, tuple[float, str]] = {
            "beta too large": (self.distance(beta / 10, self.method, self.free), f"lower beta from {beta:g}"),
            "drowned in rounding": (
                self.distance(beta * 10, self.method, self.free),
                f"raise beta from {beta:g}, or carry the errors",
            ),
            "not settled": (
                self.distance(beta, more, self.free),
                f"take more iterations or {what}, for the residual is {residual:.2g}",
            ),
        }
        if report.free is not None:
            found["free phase not settled"] = (
                self.distance(beta, more, _longer(self.free)),
                f"give the free phase more passes, or over-relax it, for its residual is {report.free.residual:.2g}",
            )
        return found


def _judge(report: Diagnosis, distance: float, trials: _Trials, strongest: float) -> tuple[Verdict, str]:
    """Verdict and advice; `strongest` is the strength of the strongest negative phase, in units of beta."""
    where = f"cosine {report.cosine:.4f}, worst layer {report.worst} at {report.worst_cosine:.4f}"
    if np.isfinite(distance) and report.cosine >= WHOLE and report.worst_cosine >= WORST:
        stalled = f"; the residual stays at {report.residuals[-1]:.2g}, for units flip at kinks"
        stays = stalled if _stalls(report) else ""
        return "good", f"the gradient points where {report.reference} does ({where}){stays}"
    weaker = partial(trials.distance, report.beta / 10, trials.method, trials.free)
    if strongest * report.q >= 1 and np.isfinite(min(distance, weaker())):
        below = f"use a beta below {1 / (strongest * report.softness):.2g}, or scheme='forward'"
        return "negative phase does not exist", f"{below}, for q = {report.q:.2g} is not below 1 ({where})"
    if report.jumps:
        lower = f"lower beta from {report.beta:g}, for {report.jumps:.0%} of the nudged states jumped"
        return "jumped to another equilibrium", f"{lower} ({where})"
    tried = trials.run(report)
    nearest = min(tried.values(), key=lambda trial: trial[0])[0]
    # A longer free phase comes with a longer nudged one: the verdict is the nudged one's where that alone is enough.
    verdict = next(name for name, (near, _) in tried.items() if near <= 1.05 * nearest)
    nearer, advice = tried[verdict]
    if not np.isfinite(min(nearer, distance)):
        return (
            "not finite",
            f"EP's gradient is not finite and {report.reference} is, at beta {report.beta:g} and near it",
        )
    if not nearer < 0.8 * distance:  # nothing helps
        verdict, advice = "not settled", tried["not settled"][1]
    return verdict, f"{advice} ({where})"


STALLED = 0.05
"""Residual from which on it matters that it stays."""


def _stalls(report: Diagnosis) -> bool:
    """Whether the second half of at least four iterations came no nearer: a cycle, in which units cross a kink."""
    found = report.residuals
    return len(found) > 4 and found[-1] > STALLED and found[-1] > 0.5 * found[len(found) // 2]


def _more(method: Any, L: int) -> Any:
    """Twice the iterations, and enough for the wave to pass."""
    if isinstance(method, Sweep):
        return replace(method, sweeps=2 * method.sweeps + 1)
    return replace(method, iterations=max(2 * method.iterations, L))


def _longer(free: Any) -> Any:
    """Five times the passes, to a residual that no longer counts, over-relaxed at need."""
    tolerance = min(free.tolerance or 1e-6, 1e-6)
    return replace(free, iterations=5 * max(free.iterations, 100), tolerance=tolerance, over="auto")


def _told(residual: np.ndarray, iterations: np.ndarray, converged: np.ndarray | None) -> FreeReport:
    return FreeReport(float(residual), int(iterations), None if converged is None else float(converged))


def _residuals(nudged: Solution) -> Array:
    """The mean over examples and phases [K + 1]; stopped ones count no more."""
    assert nudged.residual is not None
    last = nudged.residual.mean()
    return last[None] if nudged.changes is None else jnp.append(jnp.nanmean(nudged.changes, axis=(0, 1)), last)


def _norm(v: Array) -> Array:
    """||v||, where the squares of small numbers would vanish."""
    v = jnp.abs(v)
    scale = jnp.maximum(v.max(), jnp.finfo(v.dtype).tiny)
    return scale * jnp.sqrt(jnp.sum((v / scale) ** 2))


def _sums(g: Any, b: Any) -> np.ndarray:
    """<g, b>, ||g||^2, ||b||^2, ||g - b||^2 in float64."""
    total = np.zeros(4)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is seen in the sums
        for one, other in zip(jax.tree.leaves(g), jax.tree.leaves(b), strict=True):
            one, other = (np.asarray(v, np.float64).ravel() for v in (one, other))
            total += (one @ other, one @ one, other @ other, (one - other) @ (one - other))
    return total


def _compare(sums: np.ndarray) -> tuple[float | None, float | None]:
    """Cosine and norm ratio; None where backpropagation's gradient vanishes or is not finite."""
    inner, gg, bb, _ = (float(v) for v in sums)
    if not 0 < bb < np.inf:
        return None, None
    if not np.isfinite(gg) or gg == 0:
        return 0.0, gg
    return inner / (gg * bb) ** 0.5, (gg / bb) ** 0.5


def _distance(sums: list[np.ndarray]) -> float:
    """The worst layer's ||g - b|| / ||b||."""
    found = [(float(s[3]) / float(s[2])) ** 0.5 for s in sums if s[2] > 0]
    return max(found) if found and np.all(np.isfinite(sums)) else np.inf
