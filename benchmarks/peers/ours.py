"""epjax itself, as an adapter of this process: one sweep with a random sign, centered, and even/odd with K = L."""

import warnings

import flax.linen as nn
import jax
from jax import Array

from benchmarks.methods import Method, Nothing
from benchmarks.peers.harness import Case, Step, Weights, compiled
from epjax import Layer, Network
from epjax.network import Params
from epjax.network.activation import identity, relu
from epjax.network.drive import Conv, Dense
from epjax.systems.pcn.problem import Equilibration

BETA = 5e-4


class Block(nn.Module):
    """h + W relu(V h)."""

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """[B, features] -> the same."""
        inner = nn.relu(nn.Dense(h.shape[-1], name="V")(h))
        return h + nn.Dense(h.shape[-1], name="W")(inner)


def network(case: Case) -> Network:
    """The case's network."""
    found = []
    for spec, w in zip(case.layers, case.weights, strict=True):
        n = w[-1].shape[0]
        drive: nn.Module = Block()
        if spec["kind"] != "block":
            drive = Conv(n, pool=spec["pool"]) if spec["kind"] == "conv" else Dense(n)
        found.append(Layer(drive, relu if spec["relu"] else identity))
    return Network(tuple(found))


def parameters(weights: Weights) -> Params:
    """In the layout of `Network.init`."""

    def dense(kernel: Array, bias: Array) -> dict[str, Array]:
        return {"kernel": kernel, "bias": bias}

    return tuple(
        dense(*w) if len(w) == 2 else {"V": dense(*w[:2]), "W": dense(*w[2:])}  # type: ignore[misc]
        for w in weights
    )


def _layout(params: Params) -> Weights:
    layers = [[p["V"], p["W"]] if "V" in p else [p] for p in params]
    return [[part[name] for part in parts for name in ("kernel", "bias")] for parts in layers]


def steps(case: Case) -> dict[str, Step]:
    """The defaults of a step, and the even/odd relaxation."""
    L = len(case.layers)
    methods = {
        "random sign, one sweep": Method(scheme="random"),
        "centered, one sweep": Method(),
        "even/odd, centered, K = L": Method("async", L, skip_unreached=False),
    }
    return {f"{name}, beta {BETA:g}": _step(case, method) for name, method in methods.items()}


def _step(case: Case, method: Method) -> Step:
    step = _gradient(case, method)
    if method.traversal == "async":  # XLA counts the body of its loop once: K - 1 times are missing

        def uncounted() -> float:
            args = (case.weights, case.x, case.y)
            once, without = (compiled(f, args)[2] for f in (step, _gradient(case, method, Nothing())))
            return (method.iterations - 1) * (once - without)

        step.uncounted = uncounted  # type: ignore[attr-defined]
    return step


def _gradient(case: Case, method: Method, equilibration: Equilibration | None = None) -> Step:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="iterations=")
        gradient = method.build(network(case), BETA, equilibration=equilibration)

    def step(weights: Weights, x: Array, y: Array) -> Weights:
        return _layout(gradient(parameters(weights), x, y.argmax(-1), jax.random.key(0))[1])

    return step
