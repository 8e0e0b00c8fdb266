"""The inside of a layer of several products, such as a residual block: what its error tells each of its parameters.

    v_i = g_i(theta, u_i)       i = 1..n: where parameters meet states on the way from h to f(theta, h)
    c_i = (df / dv_i)^T eps     the error pulled to each of them, through what stands above it in the layer
    (df / dtheta)^T eps = sum_i (dg_i / dtheta)^T c_i

A pass down pulls eps through the whole layer, and so has every c_i on its way to (df / dh)^T eps: they cost nothing
more. The weights of a nudged phase ask for them again, at the nudged state: one product for each but the last. Pulls
that are "shared" (`epjax.systems.sharing`) are the pass's, taken at the state that the pass went down from, the free
one, while each u_i is of the nudged states. For phases +-beta of a smooth layer that changes the gradient by
O(beta^2), as does what a centered scheme leaves; for one phase by O(beta), as does one phase itself. It is exact
where what stands above a meeting is linear. (ours)
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Jaxpr, JaxprEqn

from epjax.network.kinks import alone
from epjax.network.meetings import OF_WEIGHT_AND_STATE, STATE, Known, plain, walk
from epjax.network.products import Mean, over_phases

Pulls = tuple[Array, ...]
"""(c_1, ..., c_n)."""


@partial(jax.tree_util.register_dataclass, data_fields=["each"], meta_fields=["which"])
@dataclass(frozen=True)
class Left:
    """(c_1, ..., c_n), c_i = each[which_i]: those that are one array, as a product's and its bias's, are held once."""

    each: Pulls
    which: tuple[int, ...]

    @classmethod
    def of(cls, pulls: Pulls) -> "Left":
        """The same, by identity."""
        each = {id(c): c for c in pulls}
        place = {name: i for i, name in enumerate(each)}
        return cls(tuple(each.values()), tuple(place[id(c)] for c in pulls))

    def __bool__(self) -> bool:
        return bool(self.which)


@partial(jax.tree_util.register_dataclass, data_fields=["pulls", "strength"], meta_fields=["alike"])
@dataclass(frozen=True)
class Inside:
    """strength * (c_1, ..., c_n), what the error of one phase leaves inside a layer; without any, of one not opened.

    `pulls` are a `Left`, of a run a `Stacked` of those of its layers. Where `alike` the phases of an example have the
    same c_i, and differ in strength alone.
    """

    pulls: Any
    strength: Array
    alike: bool

    def told(self, weights: Array, *, once: bool) -> Pulls:
        """weights_bp strength_bp c_i of c_i [B, P, ...]; summed over the phases, [B, ...], if `once`."""
        w = weights * self.strength  # [B, P]
        each = lax.stop_gradient(self.pulls.each)
        if once and self.alike:
            each = tuple(_times(w.sum(axis=1), c[:, 0]) for c in each)
        else:
            each = tuple(_times(w, c) for c in each)
            each = tuple(over_phases(c, 1) for c in each) if once else each
        return tuple(each[i] for i in self.pulls.which)


def _times(w: Array, c: Array) -> Array:
    """In the dtype of w, the states': c has that of its product, which may be rounded."""
    return w.reshape(w.shape + (1,) * (c.ndim - w.ndim)) * c.astype(w.dtype)


def meetings(f: Callable[..., Array], theta: Any, *states: Array) -> tuple[jax.ShapeDtypeStruct, ...]:
    """v_1..v_n as shapes, where a product stands above one of them and f takes theta nowhere else; else none."""
    found: list[Any] = []
    above = False

    def meet(program: Jaxpr, equation: JaxprEqn, inputs: list[Known]) -> list[Any]:
        nonlocal above
        above = above or (bool(found) and equation.primitive.name in OF_WEIGHT_AND_STATE)
        results = plain(program, equation, inputs)
        found.extend(jax.ShapeDtypeStruct(v.shape, v.dtype) for v in results)
        return results

    def kind(theta: Any, states: tuple[Array, ...]) -> Array:
        nonlocal above
        value, kind = walk(f, theta, states, meet)
        above = above and kind == STATE
        return value  # type: ignore[no-any-return]

    jax.eval_shape(kind, theta, states)
    floating = all(jnp.issubdtype(v.dtype, jnp.inexact) for v in found)
    return tuple(found) if above and floating else ()


def opened(f: Callable[..., Array], theta: Any, states: tuple[Array, ...], shifts: Pulls) -> Array:
    """f(theta, *states) with a shift added to each v_i.

    Its pull-back of eps, where the shifts are zero, gives the signals to the states and (c_1, ..., c_n).
    """
    each = iter(shifts)

    def meet(program: Jaxpr, equation: JaxprEqn, found: list[Known]) -> list[Any]:
        return [v + next(each) for v in plain(program, equation, found)]

    return walk(f, theta, states, meet)[0]  # type: ignore[no-any-return]


def told(f: Callable[..., Array], forces: Pulls, mean: Mean, theta: Any, *states: Array) -> Array:
    """sum_i c_i . g_i(theta, mean u_i), c_i the `forces`: its gradient for theta is (df / dtheta)^T eps.

    u_i are those of f at the `states` of a phase. They count as constants.
    """
    pulls, total = iter(forces), jnp.zeros((), states[0].dtype)

    def meet(program: Jaxpr, equation: JaxprEqn, found: list[Known]) -> list[Any]:
        nonlocal total
        there = alone(program, equation, [mean(v) if kind == STATE else v for v, kind in found])
        for v in there:
            c = next(pulls)
            total += jnp.sum(c * v.astype(c.dtype))
        return plain(program, equation, [(lax.stop_gradient(v), kind) for v, kind in found])

    walk(f, theta, states, meet)
    return total
