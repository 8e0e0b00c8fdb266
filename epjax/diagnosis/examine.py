"""What ails an EP gradient: beside backpropagation's, layer by layer, with errors, kinks and residuals.

    cosine       <g, b> / (||g|| ||b||), norm ratio ||g|| / ||b||, of the EP gradient g and backpropagation's b
    error        ||eps_k|| / ||h_k||, over all examples and phases; beside what one rounding of h_k is
    crossings    share of the switches of a layer (gates of ReLU, routes of max-pool) that stand otherwise in a nudged
                 state than in the free one
    residual     of the state before every iteration and after the last, a mean over examples and phases

Where the gradient is off, the fault is found by trial: the gradient is taken again at beta / 10, at 10 beta and with
more iterations, and what brings it nearer to backpropagation's is what was wrong. A gradient that vanishes or is not
finite has no direction to compare: it gets a verdict of its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from epjax.checks import check_batch
from epjax.cost import Cost, as_cost, cross_entropy
from epjax.diagnosis.kinks import switches
from epjax.diagnosis.report import WHOLE, WORST, Diagnosis, LayerReport, Verdict
from epjax.estimator import backprop_value_and_grad, value_and_grad
from epjax.network import Network, Params
from epjax.systems import as_equilibration, as_system
from epjax.systems.pcn.sweep import Sweep
from epjax.systems.pcn.traversal import Async, Sync
from epjax.systems.solution import Solution

Method = Async | Sync | Sweep

Diagnose = Callable[[Params, Array, Array, Array | None], Diagnosis]


def diagnose(
    net: Network, params: Params, x: Array, y: Array, *, key: Array | None = None, **options: Any
) -> Diagnosis:
    """What an EP gradient of a batch is worth, and what to change: `options` as in `diagnoser`.

    x [B, ...], y [B] or [B, classes]; a few dozen examples are enough. Costs a gradient by EP and one by
    backpropagation, and where the verdict is not "good" three more by EP. Raises ValueError for what `value_and_grad`
    refuses; a gradient that vanishes or is not finite is a verdict.
    """
    return diagnoser(net, **options)(params, x, y, key)


def diagnoser(
    net: Network,
    *,
    cost: Cost | str = cross_entropy,
    beta: float = 0.05,
    equilibration: Method | str | None = None,
    **options: Any,
) -> Diagnose:
    """`diagnose` as a function (params, x, y, key) whose programs are compiled once; options of `value_and_grad`."""
    cost, method = as_cost(cost), _method(net, beta, equilibration, options)
    value_and_grad(net, cost, beta=beta, equilibration=method, **options)  # refuses a wrong option now
    bp = jax.jit(backprop_value_and_grad(net, cost))

    @partial(jax.jit, static_argnums=0)
    def ep(method: Method, beta: Array, params: Params, x: Array, y: Array, key: Array | None) -> Any:
        traced = replace(method, residual=True, trace=True)
        estimate = value_and_grad(net, cost, beta=beta, equilibration=traced, keep_states=True, **options)
        (_, aux), grads = estimate(params, x, y, key)
        assert aux.solution is not None
        return grads, _errors_and_crossings(net, params, x, aux.solution), _residuals(aux.solution)

    def run(params: Params, x: Array, y: Array, key: Array | None = None) -> Diagnosis:
        x, y = check_batch(as_system(net), cost, params, x, y)
        exact = jax.device_get(bp(params, x, y, None)[1])

        def at(strength: float, method: Method) -> tuple[list[np.ndarray], Any, Any]:
            strength = min(strength, float(jnp.finfo(x.dtype).max))
            grads, *seen = jax.device_get(ep(method, jnp.asarray(strength, x.dtype), params, x, y, key))
            return [_sums(g, b) for g, b in zip(grads, exact, strict=True)], *seen

        sums, layers, residuals = at(beta, method)
        gradients = [_compare(s) for s in sums]
        whole = _compare(np.sum(sums, axis=0))
        found = [LayerReport(*g, *map(float, seen)) for g, seen in zip(gradients, layers, strict=True)]
        rounding = float(jnp.finfo(x.dtype).eps)
        cosine, ratio = (np.nan if v is None else v for v in whole)
        report = Diagnosis("good", "", beta, cosine, ratio, tuple(found), tuple(map(float, residuals)), rounding)
        verdict = _without_direction(exact, params=params, x=x)
        if verdict is None:
            verdict = _judge(report, _distance(sums), lambda *trial: _distance(at(*trial)[0]), method)
        return replace(report, verdict=verdict[0], advice=verdict[1])

    return run


def _method(net: Any, beta: Any, equilibration: Any, options: Mapping[str, Any]) -> Method:
    """The equilibration. Raises ValueError for what `value_and_grad` takes and a diagnosis cannot."""
    as_system(net)
    if not isinstance(net, Network):
        raise ValueError(f"net must be an epjax.Network for a diagnosis, got a {type(net).__name__}")
    if np.ndim(beta) != 0:
        raise ValueError(f"beta must be one number for a diagnosis, got shape {np.shape(beta)}")
    for name in options.keys() & {"argnums", "keep_states"}:
        raise ValueError(f"{name} must be left to the diagnosis, which looks at the parameters' gradient")
    method = Sweep(1) if equilibration is None else as_equilibration(equilibration)
    if not isinstance(method, Method):
        raise ValueError(f"equilibration must be a Sweep, Async or Sync, or its name, for a diagnosis, got {method!r}")
    return method


def attempt(diagnose: Diagnose, params: Params, *batch: Any) -> Diagnosis:
    """A diagnosis that never ends the run which asked for it: what goes wrong, memory too, is verdict "not done"."""
    try:
        return diagnose(params, *batch)
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        layers = (LayerReport(None, None, np.nan, np.nan),) * len(params)
        return Diagnosis("not done", reason, np.nan, np.nan, np.nan, layers, (np.nan,), np.nan)


def _without_direction(exact: Any, **given: Any) -> tuple[Verdict, str] | None:
    """Verdict and advice where backpropagation's gradient vanishes or is not finite."""
    if not _all_finite(exact):
        wrong = [name for name, tree in given.items() if not _all_finite(jax.device_get(tree))]
        cause = f"{' and '.join(wrong)} hold numbers that are not" if wrong else "the cost or an activation overflows"
        return "not finite", f"backpropagation's gradient is not finite, for {cause}"
    if not any(np.any(leaf) for leaf in jax.tree.leaves(exact)):
        what = "no layer has parameters" if not jax.tree.leaves(exact) else "the cost does not depend on the parameters"
        return "no gradient", f"backpropagation's gradient is zero, for {what} here: look for dead units or a flat cost"
    return None


def _all_finite(tree: Any) -> bool:
    return all(np.isfinite(np.asarray(leaf, np.float64)).all() for leaf in jax.tree.leaves(tree))


def _judge(
    report: Diagnosis, distance: float, trial: Callable[[float, Any], float], method: Method
) -> tuple[Verdict, str]:
    """Verdict and advice."""
    where = f"cosine {report.cosine:.4f}, worst layer {report.worst} at {report.worst_cosine:.4f}"
    if np.isfinite(distance) and report.cosine >= WHOLE and report.worst_cosine >= WORST:
        return "good", f"the gradient points where backpropagation's does ({where})"
    beta, more = report.beta, _more(method, len(report.layers))
    residual = report.residuals[-1]
    trials: dict[Verdict, tuple[float, str]] = {
        "beta too large": (trial(beta / 10, method), f"lower beta from {beta:g}"),
        "drowned in rounding": (trial(beta * 10, method), f"raise beta from {beta:g}, or carry the errors"),
        "not settled": (trial(beta, more), f"take more iterations or Sweep, for the residual is {residual:.2g}"),
    }
    verdict = min(trials, key=lambda name: trials[name][0])
    nearer, advice = trials[verdict]
    if not np.isfinite(min(nearer, distance)):
        return "not finite", f"EP's gradient is not finite and backpropagation's is, at beta {beta:g} and near it"
    if not nearer < 0.8 * distance:  # nothing helps
        verdict, advice = "not settled", trials["not settled"][1]
    return verdict, f"{advice} ({where})"


def _more(method: Method, L: int) -> Method:
    """Twice the iterations, and enough for the wave to pass."""
    if isinstance(method, Sweep):
        return replace(method, sweeps=2 * method.sweeps + 1)
    return replace(method, iterations=max(2 * method.iterations, L))


def _errors_and_crossings(net: Network, params: Params, x: Array, nudged: Solution) -> list[tuple[Array, Array]]:
    """||eps_k|| / ||h_k|| and the share of switches that changed, for each layer."""
    assert nudged.h is not None
    assert nudged.errors is not None
    params = net.spread(params)
    free = jax.vmap(partial(net.forward, params))(x)
    h = tuple(jnp.real(h_k) for h_k in nudged.h)
    found = []
    for k, (free_k, eps) in enumerate(zip(free, nudged.errors, strict=True), start=1):
        crossed = jax.vmap(partial(_crossed, net, params, k))((x, *free), h)
        found.append((_norm(eps) / (_norm(free_k) * eps.shape[1] ** 0.5), crossed.mean()))
    return found


def _crossed(net: Network, params: Params, k: int, free: tuple[Array, ...], nudged: tuple[Array, ...]) -> Array:
    """The share of layer k's switches that differ between a free state (x, h) [...] and nudged ones h [P, ...]."""
    x, h = free[0], free[1:]

    def at(h: tuple[Array, ...]) -> Array:
        states = (x, *h)
        found = switches(partial(net.drive, params[k - 1], k), *(states[j] for j in net.sources(k)))
        if net.activation(k).projects:
            lo, hi = net.activation(k).bounds or (0.0, 0.0)
            found = [*found, (states[k] > lo) & (states[k] < hi)]
        return jnp.concatenate([jnp.zeros(0, bool), *(switch.ravel() for switch in found)])

    differs = jax.vmap(at)(nudged) != at(h)[None]
    return differs.sum(dtype=jnp.float32) / max(1, differs.size)


def _residuals(nudged: Solution) -> Array:
    """The mean over examples and phases [K + 1]; stopped ones count no more."""
    assert nudged.changes is not None
    assert nudged.residual is not None
    return jnp.append(jnp.nanmean(nudged.changes, axis=(0, 1)), nudged.residual.mean())


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
