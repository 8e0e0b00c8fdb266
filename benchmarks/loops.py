"""Programs with loops: what they compute, and the gradients of what they scan, layer by layer."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun

from epjax.network import Stacked

QUICKLY: dict[str, str | bool] = {"xla_backend_optimization_level": "0"}
"""Half of the time to compile, the same operations: for what is not timed."""


def flops_of(n: int, counted: Callable[[int], float]) -> float:
    """FLOPs of a run of n blocks, from XLA's counts for runs of 0, 2 and 3, which hold a loop's body once.

    What a program has beside its loops grows with n, what it has in them does not.
    """
    ends, two, three = (counted(blocks) for blocks in (0, 2, 3))
    outside = three - two
    body = two - 2 * outside - ends
    return ends + n * (outside + body)


def by_layer(gradient: Any) -> tuple[Any, ...]:
    """One entry a layer, those of a run by themselves."""
    found: list[Any] = []
    for entry in jax.device_get(gradient):
        if isinstance(entry, Stacked):
            n = len(jax.tree.leaves(entry)[0])
            found += [jax.tree.map(lambda v, i=i: v[i], entry.units) for i in range(n)]
        else:
            found.append(entry)
    return tuple(found)


@dataclass(frozen=True)
class Count:
    """FLOPs of a program with its loops' bodies once, and of those bodies alone."""

    once: float
    bodies: float

    def running(self, iterations: int) -> float:
        """With every loop that often."""
        return self.once + (iterations - 1) * self.bodies


def count(function: Callable[..., Any], *args: Any) -> Count:
    """XLA's FLOPs of `function` for `args`, which may be shapes; a loop's body is compiled by itself."""
    traced = jax.jit(function).trace(*args)
    bodies = (jax.jit(jaxpr_as_fun(body)).lower(*body.in_avals) for body in _bodies(traced.jaxpr.jaxpr))
    return Count(_flops(traced.lower()), sum(map(_flops, bodies)))


def _flops(lowered: Any) -> float:
    return float(lowered.compile(compiler_options=QUICKLY).cost_analysis()["flops"])


def _bodies(jaxpr: Any) -> Iterator[Any]:
    """The bodies of the outermost loops."""
    for equation in jaxpr.eqns:
        params = equation.params
        if equation.primitive.name in ("scan", "while"):
            yield params["jaxpr" if equation.primitive.name == "scan" else "body_jaxpr"]
        else:
            for inner in jax.tree.leaves(tuple(params.values()), is_leaf=lambda v: isinstance(v, ClosedJaxpr | Jaxpr)):
                if isinstance(inner, ClosedJaxpr | Jaxpr):
                    yield from _bodies(inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner)
