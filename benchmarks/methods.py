"""Ways to estimate a gradient, by name, and what one of them really computes."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import jax.numpy as jnp
from jax import Array

import epjax
from benchmarks.rows import Row
from epjax.cost import Cost, cross_entropy
from epjax.estimator import Phases
from epjax.network import Network
from epjax.network.activation import Update
from epjax.network.precision import Precision
from epjax.systems.pcn.problem import Equilibration, Problem
from epjax.systems.sharing import Sharing
from epjax.systems.solution import Errors, Solution
from epjax.systems.system import ValueAndGrad

BETA = 0.05


@dataclass(frozen=True)
class Method:
    """An EP estimator. Its name is `sweep1/centered`, `async10/random`; what is not the default is appended."""

    traversal: Literal["sweep", "async"] = "sweep"
    iterations: int = 1
    scheme: str = "centered"
    errors: Errors = "carried"
    precision: Precision = "float32"
    phases: Phases = "together"
    skip_unreached: bool = True
    update: Update = "mod_pgd"
    signals: Sharing = "own"
    products: Sharing | None = None
    pulls: Sharing | None = None

    @property
    def name(self) -> str:
        """Such as `sweep1/centered`, `async10/centered/all layers`."""
        extras = [
            self.errors if self.errors != "carried" else "",
            "in sequence" if self.phases == "sequential" else "",
            "" if self.skip_unreached else "all layers",
            self.update if self.update != "mod_pgd" else "",
            "shared signals" if self.signals == "shared" else "",
            "own products" if self.products == "own" else "",
            "own pulls" if self.pulls == "own" else "",
        ]
        return "/".join([f"{self.traversal}{self.iterations}", self.scheme, *filter(None, extras)])

    def equilibration(self, **options: Any) -> epjax.Sweep | epjax.Async:
        """The traversal; `options` go to it."""
        if self.traversal == "sweep":
            sharing = {"signals": self.signals, "products": self.products, "pulls": self.pulls}
            return epjax.Sweep(self.iterations, **{"update": self.update, **sharing, **options})
        options = {"update": self.update, "skip_unreached": self.skip_unreached, **options}
        return epjax.Async(self.iterations, **options)

    def build(
        self,
        net: Network,
        beta: float | Array = BETA,
        cost: Cost = cross_entropy,
        equilibration: Equilibration | None = None,
    ) -> ValueAndGrad:
        """`epjax.value_and_grad` with these options; the network takes this precision."""
        return epjax.value_and_grad(
            at_precision(net, self.precision),
            cost,
            scheme=self.scheme,
            beta=beta,
            equilibration=self.equilibration() if equilibration is None else equilibration,
            errors=self.errors,
            phases=self.phases,
        )

    def row(self) -> Row:
        """Name and options, for a row."""
        names = tuple(field.name for field in fields(self))
        return {"name": self.name, **{name: getattr(self, name) for name in names}}


def backprop(net: Network, precision: Precision = "float32", cost: Cost = cross_entropy) -> ValueAndGrad:
    """Backpropagation at a precision."""
    return epjax.backprop_value_and_grad(at_precision(net, precision), cost)


def at_precision(net: Network, precision: Precision) -> Network:
    """The same network with products at `precision`."""
    return replace(net, precision=precision)


@dataclass(frozen=True)
class Nothing:
    """No equilibration at all: what is left of a program is the free phase and the gradient. For counting only."""

    tolerance: float | None = None

    def check(self, net: Network, errors: Errors) -> None:
        """Nothing to check."""

    def solve(self, problem: Problem) -> Solution:
        """Numbers that XLA cannot know to be the free state's."""
        shift = problem.perturbation.cost_term(problem.free.output)
        h: Sequence[Array] = [h_k + shift for h_k in problem.free.h[1:]]
        return Solution(tuple(h), tuple(h), jnp.int32(0), None, None, None)
