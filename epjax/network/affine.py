"""Whether a function is affine between its switches, so that a coupling made of it has an energy: found in its program.

The derivative of an affine function does not depend on where it is taken. Of one with kinks (max-pooling) it depends on
that through comparisons alone.
"""

from collections.abc import Callable, Sequence

import jax
from jax import Array
from jax.extend.core import Jaxpr, Literal

from epjax.network.kinks import inner_program

SWITCHES = frozenset({"gt", "ge", "lt", "le", "eq", "ne", "argmax", "argmin", "stop_gradient", "sign"})
"""What is flat almost everywhere."""


def is_affine(f: Callable[..., Array], *inputs: jax.ShapeDtypeStruct) -> bool:
    """Whether f is affine in all its inputs together, between its switches."""

    def tangent(inputs: Sequence[Array], along: Sequence[Array]) -> Array:
        return jax.jvp(f, tuple(inputs), tuple(along))[1]

    program = jax.make_jaxpr(tangent)(inputs, inputs)
    n = len(inputs)
    return not any(_moves(program.jaxpr, [True] * n + [False] * n))


def _moves(program: Jaxpr, moved: Sequence[bool]) -> list[bool]:
    """Which outputs of a program change smoothly with the inputs that are `moved`."""
    known = dict(zip(program.invars, moved, strict=True))

    def read(variable: object) -> bool:
        return False if isinstance(variable, Literal) else known.get(variable, False)  # type: ignore[arg-type, call-overload]

    for equation in program.eqns:
        found = [read(v) for v in equation.invars]
        name, inner = equation.primitive.name, inner_program(equation)
        if name in SWITCHES:
            out = [False] * len(equation.outvars)
        elif name == "select_and_gather_add":  # the derivative of a windowed maximum: the second only says where
            out = [found[0]]
        elif name == "select_n":
            out = [any(found[1:])]
        elif inner is not None:
            out = _moves(inner.jaxpr, found)
        else:
            out = [any(found)] * len(equation.outvars)
        known.update(zip(equation.outvars, out, strict=True))
    return [read(v) for v in program.outvars]
