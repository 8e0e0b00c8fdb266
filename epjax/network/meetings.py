"""Where the parameters of a layer meet its states: the equations of its program that take both.

All of theta's influence on what the layer gives goes through them: a product, a bias that is added, a scale of a norm.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import jax
from jax import Array, lax
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from epjax.network.affine import PRODUCTS
from epjax.network.kinks import alone, inner_program

FIXED, WEIGHT, STATE = 0, 1, 2
"""What a number of a program depends on: nothing, the parameters alone, the states as well."""

Known = tuple[Any, int]
"""A number and its kind."""

Meeting = Callable[[Jaxpr, JaxprEqn, list[Known]], list[Any]]
"""(program, equation, what goes in) -> what comes out, where parameters and states go in."""

OWN_DERIVATIVE = frozenset({"custom_jvp_call", "custom_vjp_call"})
"""Calls that are not looked into: of a weight and a state it is a product, as the library's own convolution is."""

OF_WEIGHT_AND_STATE = PRODUCTS - {"mul"} | OWN_DERIVATIVE
"""Meetings that are products; a scale is none."""


def walk(f: Callable[..., Array], theta: Any, states: tuple[Array, ...], meet: Meeting) -> Known:
    """f(theta, *states), its equations one after the other, with `meet` where parameters and states meet."""
    program = jax.make_jaxpr(f)(theta, *states)
    given = [(v, WEIGHT) for v in jax.tree.leaves(theta)] + [(v, STATE) for v in states]
    return _walk(program.jaxpr, [(v, FIXED) for v in program.consts], given, meet)[0]


def _walk(program: Jaxpr, consts: list[Known], given: list[Known], meet: Meeting) -> list[Known]:
    known: dict[Any, Known] = dict(zip((*program.constvars, *program.invars), (*consts, *given), strict=True))

    def read(variable: Any) -> Known:
        return (variable.val, FIXED) if isinstance(variable, Literal) else known[variable]

    for equation in program.eqns:
        found = [read(v) for v in equation.invars]
        inner = inner_program(equation)
        if inner is not None and equation.primitive.name not in OWN_DERIVATIVE:
            results = _walk(inner.jaxpr, [(v, FIXED) for v in inner.consts], found, meet)
        else:
            kinds = {kind for _, kind in found}
            of = meet if kinds >= {WEIGHT, STATE} else plain
            with _at_its_precision(inner):
                results = [(v, max(kinds, default=FIXED)) for v in of(program, equation, found)]
        known.update(zip(equation.outvars, results, strict=True))
    return [read(v) for v in program.outvars]


def plain(program: Jaxpr, equation: JaxprEqn, found: list[Known]) -> list[Any]:
    """What the equation says."""
    return alone(program, equation, [v for v, _ in found])


def _at_its_precision(call: Any) -> Any:
    """Where the derivative of a call is made: with the precision that its own products were traced with."""
    found = [e.params["precision"] for e in call.jaxpr.eqns if e.params.get("precision")] if call is not None else []
    asked = found[0][0] if found and isinstance(found[0], tuple) else found[0] if found else None
    names = {lax.Precision.HIGHEST: "highest", lax.Precision.HIGH: "tensorfloat32"}
    return jax.default_matmul_precision(names[asked]) if asked in names else nullcontext()
