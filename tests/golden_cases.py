"""The gradients of small networks in float64, by every scheme, traversal, update, perturbation and model, as a few
numbers a layer: norm and three projections on fixed directions. `python -m tests.golden_cases` writes them anew.
"""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import epjax

PATH = Path(__file__).parent / "golden" / "gradients.json"


def networks():
    """Name -> (network, input shape, classes)."""
    models = epjax.models
    smooth = epjax.models.mlp([7, 5, 4], activation=epjax.activation.tanh, gain=1.5)
    return {
        "mlp": (models.mlp([8, 7, 6, 4], gain=2.0), (3, 3, 1), 4),
        "smooth": (smooth, (6,), 4),
        "vgg5": (models.vgg5(4, width=1 / 64, gain=2.0), (32, 32, 1), 4),
        "vgg10": (models.vgg10(4, width=1 / 32, dense=16, gain=2.0), (32, 32, 3), 4),
        "vgg10_skip": (models.vgg10_skip(4, width=1 / 32, dense=16, gain=2.0), (32, 32, 3), 4),
        "resnet18": (models.resnet18(4, width=1 / 32, small_images=True), (16, 16, 3), 4),
        "vit": (models.vit(4, features=8, depth=2, heads=2, patch=8), (16, 16, 3), 4),
    }


def options():
    """Name -> (network, cost, options of value_and_grad)."""
    Async, Sync = epjax.Async, epjax.Sync
    Sweep = partial(epjax.Sweep, signals="own", products="own", pulls="own")  # version 0.1 shared nothing
    cases = {}
    for scheme in ("centered", "forward", "backward", "random"):
        cases[f"mlp {scheme}"] = ("mlp", "cross_entropy", {"scheme": scheme, "equilibration": Sweep(1)})
    cases["mlp three points"] = ("mlp", "cross_entropy", {"points": 3, "equilibration": Sweep(1)})
    cases["mlp sequential"] = ("mlp", "cross_entropy", {"phases": "sequential"})
    cases["smooth holomorphic"] = (
        "smooth",
        "cross_entropy",
        {"scheme": "holomorphic", "points": 2, "equilibration": Sweep(3, update="pgd")},
    )
    methods = {
        "sweep": Sweep(2),
        "sweep pgd": Sweep(2, update="pgd"),
        "sweep tolerance": Sweep(30, tolerance=1e-9, unroll=2),
        "async": Async(5),
        "async pgd": Async(5, update="pgd"),
        "async pgd half": Async(5, update="pgd", step_size=0.5),
        "async all layers": Async(5, skip_unreached=False),
        "sync pgd half": Sync(9, update="pgd", step_size=0.5),
        "sync": Sync(3),
    }
    for name, method in methods.items():
        for perturbation in ("nudge", "clamp"):
            for errors in ("carried", "recomputed"):
                if perturbation == "clamp" and not isinstance(method, Sync):  # version 0.1 knew whole steps only
                    method = replace(method, relaxation=1.0)
                given = {"equilibration": method, "perturbation": perturbation, "errors": errors}
                cases[f"mlp {name} {perturbation} {errors}"] = ("mlp", "squared_error", given)
    cases["smooth async"] = ("smooth", "squared_error", {"equilibration": Async(6, update="pgd")})
    for model in ("vgg5", "vgg10", "vgg10_skip", "resnet18", "vit"):
        cases[f"{model} sweep"] = (model, "cross_entropy", {"beta": 0.01, "equilibration": Sweep(1)})
    for model in ("vgg10", "vgg10_skip"):
        cases[f"{model} async"] = (model, "cross_entropy", {"equilibration": Async(10), "errors": "recomputed"})
    cases["mlp input"] = ("mlp", "cross_entropy", {"argnums": 1, "equilibration": Sweep(1)})
    return cases


def numbers(case):
    """The cost, and for each layer the norm and three projections of its gradient."""
    model, cost, given = case
    net, shape, classes = networks()[model]
    key = jax.random.key(3)
    with jax.enable_x64(False):
        params = net.init(key, shape)
    params = jax.tree.map(lambda v: v.astype(jnp.float64), params)
    x = jax.random.normal(jax.random.key(4), (3, *shape), jnp.float64)
    y = jnp.arange(3) % classes
    ep = epjax.value_and_grad(net, getattr(epjax.cost, cost), **{"beta": 0.05} | given)
    with jax.numpy_dtype_promotion("standard"):  # flax's attention mixes float32 and float64
        (value, aux), grads = jax.jit(ep)(params, x, y, jax.random.key(5))
    found = {"cost": [float(value), float(jnp.sum(aux.output))]}
    grads = grads if isinstance(grads, tuple) else (grads,)
    for k, theta in enumerate(grads, start=1):
        flat = np.concatenate([np.zeros(0), *(np.ravel(leaf) for leaf in jax.tree.leaves(theta))])
        directions = np.random.default_rng(len(flat)).standard_normal((3, len(flat)))
        found[str(k)] = [float(np.linalg.norm(flat)), *map(float, directions @ flat)]
    return found


def main():
    """Write the file."""
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        table = {name: numbers(case) for name, case in options().items()}
    PATH.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
