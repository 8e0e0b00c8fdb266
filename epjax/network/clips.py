"""Clips in a program: the equations that are phi(a) = clip(a, lo, hi), such as a rectifier, and their activations."""

import math
from collections.abc import Callable, Sequence
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


def clip_of(program: Jaxpr, equation: JaxprEqn) -> Activation | None:
    """The activation that an equation is, if it clips the one array that it takes.

    A function with a derivative of its own is one only if it is jax's: a straight-through clip is no projection.
    """
    arrays = [v for v in equation.invars if not isinstance(v, Literal)]
    if len(arrays) != 1 or len(equation.outvars) != 1 or arrays[0].aval != equation.outvars[0].aval:
        return None
    if equation.primitive.name == "custom_jvp_call" or equation.params.get("name") in {known.name for known in KNOWN}:
        text = _derivative(partial(_alone, program, equation), arrays[0].aval)
        for known in KNOWN:
            if text == _derivative(known.phi, arrays[0].aval):
                return known
    bounds = _range(equation, [_number(v) if isinstance(v, Literal) else ALL for v in equation.invars])
    return _clip(bounds, equation.primitive.name == "clamp") if isinstance(bounds, tuple) and bounds != ALL else None


KNOWN = (relu, Activation("relu6", jax.nn.relu6, (0.0, 6.0)), hard_tanh)
"""jax's own, which are told by their programs and those of their derivatives."""


def _alone(program: Jaxpr, equation: JaxprEqn, a: Array) -> Array:
    result: Array = alone(program, equation, [v.val if isinstance(v, Literal) else a for v in equation.invars])[0]
    return result


def _derivative(f: Callable[[Array], Array], aval: Any) -> str:
    """The program of a function's value and derivative, as text."""
    a = jax.ShapeDtypeStruct(aval.shape, aval.dtype)
    return str(jax.make_jaxpr(lambda a, da: jax.jvp(f, (a,), (da,)))(a, a))


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


def _range(equation: JaxprEqn, given: Sequence[Any]) -> Any:
    """What it gives: a number that is known, the bounds of a clip of what is not, or None for anything else."""
    if any(v is None for v in given):
        return None
    kind, inner = equation.primitive.name, inner_program(equation)
    moving = [v for v in given if isinstance(v, tuple)]
    if kind in ("convert_element_type", "broadcast_in_dim") and not moving:
        return given[0]
    if kind in ("max", "min", "clamp") and len(moving) == 1:
        (lo, hi), numbers = moving[0], [v for v in given if not isinstance(v, tuple)]
        if kind == "clamp" and not isinstance(given[1], tuple):
            return None
        least = numbers[0] if kind != "min" else -math.inf
        most = numbers[-1] if kind != "max" else math.inf
        return min(max(lo, least), most), min(max(hi, least), most)
    if inner is None or inner.consts or kind.startswith("custom"):
        return None
    known = dict(zip(inner.jaxpr.invars, given, strict=True))

    def read(v: Any) -> Any:
        return _number(v) if isinstance(v, Literal) else known.get(v)

    for e in inner.jaxpr.eqns:
        found = _range(e, [read(v) for v in e.invars])
        known.update(dict.fromkeys(e.outvars, found))
    return read(inner.jaxpr.outvars[0])


def _number(literal: Literal) -> float | None:
    """A real scalar; of a float32 the shortest number that it may have been written as."""
    value = np.asarray(literal.val)
    if value.ndim or (value.dtype.kind not in "fiu" and value.dtype != jnp.bfloat16):
        return None
    return float(str(value.item())) if value.dtype.kind in "iu" else float(str(value[()]))
