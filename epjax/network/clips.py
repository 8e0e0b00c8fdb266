"""Clips in a program: the equations that are phi(a) = clip(a, lo, hi), such as a rectifier, and their activations."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from epjax.network.activation import Activation, hard_tanh, relu
from epjax.network.kinks import alone, inner_program

Bounds = tuple[float, float]
ALL: Bounds = (-math.inf, math.inf)


class Moves:
    """What a clip is of: the number that is not known beforehand."""


def clip_of(program: Jaxpr, equation: JaxprEqn) -> Activation | None:
    """The activation that an equation is, if it clips the one array that it takes."""
    arrays = [v for v in equation.invars if not isinstance(v, Literal)]
    if len(arrays) != 1 or len(equation.outvars) != 1 or arrays[0].aval != equation.outvars[0].aval:
        return None
    if equation.params.get("name") == "hard_tanh":
        return hard_tanh if _text(equation) == _text(_equation_of(jax.nn.hard_tanh, arrays[0].aval)) else None
    bounds = _bounds(equation, [_number(v) if isinstance(v, Literal) else (Moves(), ALL) for v in equation.invars])
    if bounds is None or bounds == ALL:
        return None
    is_open = equation.primitive.name in ("clamp", "custom_jvp_call") or "custom_jvp" in _text(equation)
    found = relu if is_open and bounds == (0.0, math.inf) else _clip(bounds, is_open)
    return found if _has_its_derivative(program, equation, arrays[0].aval, found) else None


def after(first: Activation, then: Activation) -> Activation:
    """One clip after another, which is a clip."""
    assert first.bounds is not None
    assert then.bounds is not None
    lo, hi = (min(max(b, then.bounds[0]), then.bounds[1]) for b in first.bounds)
    return Activation(f"clip({lo:g}, {hi:g})", lambda a: then(first(a)), (lo, hi))


def _clip(bounds: Bounds, is_open: bool) -> Activation:
    lo, hi = bounds
    name = "relu" if bounds == (0.0, math.inf) else f"clip({lo:g}, {hi:g})"
    return Activation(name, partial(_clamped if is_open else _clipped, lo, hi), bounds)


def _clamped(lo: float, hi: float, a: Array) -> Array:
    """With derivative 0 at its ends."""
    return lax.clamp(jnp.asarray(lo, a.dtype), a, jnp.asarray(hi, a.dtype))


def _clipped(lo: float, hi: float, a: Array) -> Array:
    """With derivative 1/2 at its ends, as a maximum has where it is a tie."""
    return jnp.clip(a, lo if math.isfinite(lo) else None, hi if math.isfinite(hi) else None)


def _bounds(equation: JaxprEqn, given: Sequence[Any]) -> Bounds | None:
    """The range of what moves, or None for what is no clip."""
    out = _interpret(equation, given)
    return out[1] if isinstance(out, tuple) else None


def _interpret(equation: JaxprEqn, given: Sequence[Any]) -> Any:
    """A number, (Moves, its bounds), or None."""
    if any(v is None for v in given):
        return None
    kind, inner = equation.primitive.name, inner_program(equation)
    moving = [v for v in given if isinstance(v, tuple)]
    if kind in ("convert_element_type", "broadcast_in_dim") and not moving:
        return given[0]
    if kind in ("max", "min", "clamp") and len(moving) == 1:
        (mark, (lo, hi)), numbers = moving[0], [v for v in given if not isinstance(v, tuple)]
        if kind == "clamp" and not isinstance(given[1], tuple):
            return None
        least = numbers[0] if kind != "min" else -math.inf
        most = numbers[-1] if kind != "max" else math.inf
        return mark, (min(max(lo, least), most), min(max(hi, least), most))
    if inner is None or inner.consts:
        return None
    known = dict(zip(inner.jaxpr.invars, given, strict=True))

    def read(v: Any) -> Any:
        return _number(v) if isinstance(v, Literal) else known.get(v)

    for e in inner.jaxpr.eqns:
        found = _interpret(e, [read(v) for v in e.invars])
        known.update(dict.fromkeys(e.outvars, found))
    return read(inner.jaxpr.outvars[0])


def _number(literal: Literal) -> float | None:
    """A real scalar; of a float32 the shortest number that it may have been written as."""
    value = np.asarray(literal.val)
    if value.ndim or (value.dtype.kind not in "fiu" and value.dtype != jnp.bfloat16):
        return None
    return float(str(value.item())) if value.dtype.kind in "iu" else float(str(value[()]))


def _has_its_derivative(program: Jaxpr, equation: JaxprEqn, aval: Any, activation: Activation) -> bool:
    """Whether its derivative is the clip's, too: a function may have been given another."""
    assert activation.bounds is not None
    ends = [b for b in activation.bounds if math.isfinite(b)]
    places = [at for b in ends for at in (b - 1, b, b + 1)] + [sum(ends) / len(ends)]
    literals = {i: v.val for i, v in enumerate(equation.invars) if isinstance(v, Literal)}

    def as_given(a: Array) -> Array:
        one: Array = alone(program, equation, [literals.get(i, a) for i in range(len(equation.invars))])[0]
        return one

    with jax.ensure_compile_time_eval():
        for at in places:
            a = jnp.full(aval.shape, at, aval.dtype)
            one, other = (jax.jvp(f, (a,), (jnp.ones_like(a),)) for f in (as_given, activation))
            if not all(map(np.array_equal, one, other)):
                return False
    return True


def _equation_of(f: Any, aval: Any) -> JaxprEqn:
    return jax.make_jaxpr(f)(jax.ShapeDtypeStruct(aval.shape, aval.dtype)).eqns[-1]


def _text(equation: JaxprEqn) -> str:
    inner = inner_program(equation)
    return "" if inner is None else f"{equation.params.get('name')} {inner.jaxpr}"
