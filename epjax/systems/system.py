"""What equilibrium propagation asks of a physical system. One example; `jax.vmap` makes the batch.

    E(theta, x, s)   the energy of a state s = (s_1, ..., s_L) under the clamped input x
    free phase       s^0, a stationary point of E; its output is what the cost C sees
    nudged phase     s^beta, the stationary point of F = E + beta C reached from s^0
    contrast         sum_bp w_bp [G(beta_p) - G(0)],  G(beta) = dE/dtheta at s^beta

A predictive coding network (`epjax.systems.pcn.PCN`) is one such system: its free phase is a forward pass and G(0) = 0.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
from jax import Array

from epjax.cost import Cost
from epjax.network import Params, States
from epjax.perturbation import Perturbation
from epjax.scheme import Scheme
from epjax.shapes import Bool, Inexact, InputShape, Shaped
from epjax.systems.solution import Errors, Solution


@partial(jax.tree_util.register_dataclass, data_fields=["output", "solution", "free"], meta_fields=[])
@dataclass(frozen=True)
class Aux:
    """What comes beside the cost: the free output [B, classes] and how the phases went.

    `solution` has iterations, residual, converged [B, P], displacement [B, P, L] and energies [B, P, K + 1] for P
    nudged phases (positive beta first), without the states; None for an exact gradient. `free` has the same [B] of a
    free phase that was iterated; None where it is a forward pass.
    """

    output: Inexact[Array, "batch ..."]
    solution: Solution | None
    free: Solution | None = None


@runtime_checkable
class ValueAndGrad(Protocol):
    """(params, x, y, key) -> ((mean cost, Aux), gradient of the mean cost, as params).

    With `argnums` the gradient is that for x, or a tuple of both.
    """

    def __call__(
        self, params: Params, x: Inexact[Array, "batch ..."], y: Shaped[Array, "batch ..."], key: Array | None = None, /
    ) -> tuple[tuple[Inexact[Array, ""], Aux], Params]:
        """Labels y [B], or class weights [B, classes]."""
        ...


Argnums = int | tuple[int, ...]
"""For which arguments, as in `jax.grad`: 0 the parameters, 1 the input."""


class Free(Protocol):
    """A free phase of one example."""

    @property
    def output(self) -> Inexact[Array, "*output"]:
        """What the cost sees."""
        ...

    @property
    def states(self) -> States:
        """(s_1, ..., s_L)."""
        ...

    @property
    def solution(self) -> Solution | None:
        """How it was reached, without the states; None for a forward pass."""
        ...


@runtime_checkable
class System(Protocol):
    """A physical system that EP trains: a frozen dataclass, every method a pure function."""

    def init(self, key: Array, input_shape: InputShape) -> Params:
        """Parameters theta for one input of `input_shape` (no batch axis)."""
        ...

    def check(self, scheme: Scheme, equilibration: Any, errors: Errors) -> None:
        """Raises ValueError where these do not fit the system."""
        ...

    def examine(self, params: Params, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        """The free output for one input of that shape and dtype; looked at once for each kind of input.

        Raises ValueError, in one sentence, where the parameters or the input are none of this system's.
        """
        ...

    def check_values(self, params: Params, x: Any) -> None:
        """Raises ValueError, in one sentence, for parameters that it cannot have, or x [B, ...] that it cannot take.

        Looked at where they have values: not inside `jax.jit`.
        """
        ...

    @property
    def input_range(self) -> tuple[float, float] | None:
        """Where inputs must lie; None: anywhere."""
        ...

    def default_equilibration(self) -> Any:
        """The way to the nudged state where none is named."""
        ...

    def default_free(self) -> Any:
        """The way to the free state where none is named; None: nothing is iterated."""
        ...

    def free(self, params: Params, x: Inexact[Array, "..."], method: Any = None) -> Any:
        """The free phase of one example, a `Free`; `method` is for systems whose free phase is iterated."""
        ...

    def nudged(self, params: Params, free: Any, perturbation: Perturbation, method: Any, errors: Errors) -> Solution:
        """The nudged state of one example, from its free phase."""
        ...

    def moved(self, free: Any, nudged: Solution) -> Inexact[Array, "*output"]:
        """o^beta - o^0, by how much the output has moved."""
        ...

    def answer(self, params: Params, free: Any, force: Inexact[Array, "*output"]) -> Inexact[Array, "*output"]:
        """chi force: by how much the output moves under a force on it, to first order in the force."""
        ...

    def crossings(
        self, params: Params, x: Inexact[Array, "..."], free: States, nudged: States
    ) -> Inexact[Array, " layers"]:
        """The share of each block's switches (gates, routes, ends of a range) that stand otherwise when nudged."""
        ...

    def jumped(self, displacements: States) -> Bool[Array, ""]:
        """Whether these displacements are so large that another equilibrium was reached."""
        ...

    def contrast(
        self,
        params: Params,
        x: Inexact[Array, "batch ..."],
        free: States,
        nudged: States,
        errors: States | None,
        weights: Inexact[Array, "batch phases"],
    ) -> Inexact[Array, ""]:
        """A scalar whose gradient for params and x is sum_bp weights_bp [G(beta_p) - G(0)].

        Free s_k [B, ...], nudged s_k and errors [B, P, ...] for P phases. All states count
        as constants. Errors None: the states were measured, and their contrast is to be had from them. It
        sums over examples and phases within its products. A system with an equilibration that has `products` "shared"
        takes `mean` [B, P] as well, where it is so: the coefficients of a mean state, whose sum is one. With `pulls`
        "shared" it takes `inside` as well, that of the solution.
        """
        ...

    def exact(self, cost: Cost, argnums: Argnums = 0, free: Any = None) -> ValueAndGrad:
        """The gradient of the mean cost at the free state without EP: what an estimate is held against.

        `free` is the way to that state, as `method` of `free`.
        """
        ...

    def project(self, params: Params) -> Params:
        """The nearest parameters that the system can have; applied after every step of an optimiser."""
        ...


@runtime_checkable
class Noisy(Protocol):
    """A `System` whose phases have noise: an estimate gives each example a key of its own."""

    @property
    def noisy(self) -> bool:
        """Whether there is noise, so that a key is needed."""
        ...

    def keyed(self, key: Array) -> Any:
        """This system while it sees one example: its noise comes from `key`, the same from the same."""
        ...
