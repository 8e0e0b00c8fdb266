"""How near one gradient is to another: whole, and layer by layer."""

from typing import Any

import jax
import numpy as np

from benchmarks.rows import Row
from epjax.network import Params


def compare(gradient: Params, reference: Params) -> Row:
    """Cosine, relative error ||g - r|| / ||r|| and norm ratio ||g|| / ||r||; sums in float64.

    `layers` holds the same for each layer's parameters; `worst_layer` is the one of least cosine, counted from 1.
    """
    sums = np.array([_sums(g, r) for g, r in zip(gradient, reference, strict=True)])
    layers = [_numbers(s) for s in sums]
    worst = int(np.argmin([layer["cosine"] for layer in layers]))
    return {
        **_numbers(sums.sum(axis=0)),
        "worst_layer_cosine": layers[worst]["cosine"],
        "worst_layer": worst + 1,
        "layers": layers,
    }


def _sums(gradient: Any, reference: Any) -> np.ndarray:
    """<g, r>, ||g||^2, ||r||^2, ||g - r||^2 of one layer."""
    total = np.zeros(4)
    for g, r in zip(jax.tree.leaves(gradient), jax.tree.leaves(reference), strict=True):
        g, r = (np.asarray(v, np.float64).ravel() for v in (g, r))
        total += (g @ r, g @ g, r @ r, (g - r) @ (g - r))
    return total


def _numbers(sums: np.ndarray) -> Row:
    inner, gg, rr, dd = (float(v) for v in sums)
    if rr == 0:
        return {"cosine": float(gg == 0), "relative_error": 0.0 if gg == 0 else float("inf"), "norm_ratio": 1.0}
    cosine = inner / np.sqrt(gg * rr) if gg else 0.0
    return {"cosine": float(cosine), "relative_error": float(np.sqrt(dd / rr)), "norm_ratio": float(np.sqrt(gg / rr))}


def average(comparisons: list[Row]) -> Row:
    """The mean over repeats of every number, with the least cosines beside, and the worst layer of the worst repeat."""
    names = ("cosine", "relative_error", "norm_ratio")
    worst = min(comparisons, key=lambda c: c["worst_layer_cosine"])
    layers = [
        {name: float(np.mean([c["layers"][k][name] for c in comparisons])) for name in names}
        for k in range(len(worst["layers"]))
    ]
    return {
        **{name: float(np.mean([c[name] for c in comparisons])) for name in (*names, "worst_layer_cosine")},
        "least_cosine": min(c["cosine"] for c in comparisons),
        "least_worst_layer_cosine": worst["worst_layer_cosine"],
        "worst_layer": worst["worst_layer"],
        "relative_errors": [c["relative_error"] for c in comparisons],
        "repeats": len(comparisons),
        "layers": layers,
    }
