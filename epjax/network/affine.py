"""Whether a function is affine between its switches, so that a coupling made of it has an energy: found in its program.

The derivative of an affine function does not depend on where it is taken. Of one with kinks (max-pooling) it depends on
that through comparisons alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from epjax.network.kinks import inner_program

SWITCHES = frozenset({"gt", "ge", "lt", "le", "eq", "ne", "argmax", "argmin", "stop_gradient", "sign"})
"""What is flat almost everywhere."""
PRODUCTS = frozenset({"mul", "dot_general", "conv_general_dilated"})
"""Zero where a factor is: a derivative has terms along directions that are zero."""
SHAPES = {
    "broadcast_in_dim",
    "transpose",
    "reshape",
    "squeeze",
    "rev",
    "slice",
    "dynamic_slice",
    "gather",
    "concatenate",
}
LINEAR = frozenset({"add", "sub", "neg", "add_any", "reduce_sum", "convert_element_type", "copy", "pad", *SHAPES})
"""Zero where all of its inputs are."""
ZERO, FIXED, MOVES = 0, 1, 2


def is_affine(f: Callable[..., Array], *inputs: jax.ShapeDtypeStruct) -> bool:
    """Whether f is affine in all its inputs together, between its switches."""

    def tangent(inputs: Sequence[Array], along: Sequence[Array]) -> Array:
        return jax.jvp(f, tuple(inputs), tuple(along))[1]

    program = jax.make_jaxpr(tangent)(inputs, inputs)
    n = len(inputs)
    return MOVES not in _states(program.jaxpr, [MOVES] * n + [FIXED] * n)


def _states(program: Jaxpr, inputs: Sequence[int]) -> list[int]:
    """Of each output: is it zero, is it fixed, or does it move smoothly with the inputs that move?"""
    known: dict[Any, int] = dict(zip(program.invars, inputs, strict=True))

    def read(variable: Any) -> int:
        if isinstance(variable, Literal):
            return ZERO if np.ndim(variable.val) == 0 and variable.val == 0 else FIXED
        return known.get(variable, FIXED)

    for equation in program.eqns:
        found = [read(v) for v in equation.invars]
        known.update(zip(equation.outvars, _of(equation, found), strict=True))
    return [read(v) for v in program.outvars]


def _of(equation: JaxprEqn, found: list[int]) -> list[int]:
    name, inner, n = equation.primitive.name, inner_program(equation), len(equation.outvars)
    if name in SWITCHES:
        return [FIXED] * n
    if name == "select_and_gather_add":  # the derivative of a windowed maximum: the second only says where
        return [found[0]]
    if name == "select_n":  # the first only chooses
        return [max(found[1:])]
    if inner is not None:
        return _states(inner.jaxpr, found)
    if name in PRODUCTS and ZERO in found:
        return [ZERO]
    most = max(found, default=FIXED)
    return [most if name in LINEAR else max(most, FIXED)] * n
