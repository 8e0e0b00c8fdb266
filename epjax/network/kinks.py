"""Where a function has kinks, and on which side of them it is: gates of a ReLU, routes of a max-pool.

A switch is a boolean that a function takes on its way: the outcome of a comparison, which of two numbers is the larger,
which place of a window is its maximum. Two inputs between which no switch changes see the same smooth function.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun

SMOOTH = frozenset({"softplus", "logaddexp", "softmax", "_softmax", "log_softmax", "logsumexp", "gelu", "silu"})
"""Functions that compare in order to compute well, and have no kink."""


def switches(f: Callable[..., Array], *inputs: Array) -> list[Array]:
    """Every switch of f at `inputs`, in the order of evaluation: boolean arrays, of shapes that do not depend on it."""
    program = jax.make_jaxpr(f)(*inputs)
    found: list[Array] = []
    _evaluate(program.jaxpr, program.consts, inputs, found)
    return found


def crossed(L: int, at: Callable[[int, Any], list[Array]], one: Any, other: Any) -> Array:
    """[L] the share of the switches `at(k, states)` that differ between two states; 0 of a layer without any."""
    shares = []
    for k in range(1, L + 1):
        differ = [jnp.ravel(a != b) for a, b in zip(at(k, one), at(k, other), strict=True)]
        count = sum(d.size for d in differ)
        shares.append(sum((d.sum(dtype=jnp.float32) for d in differ), jnp.float32(0)) / max(1, count))
    return jnp.stack(shares)


def _evaluate(program: Jaxpr, consts: Sequence[Any], inputs: Sequence[Any], found: list[Array]) -> list[Any]:
    values = dict(zip((*program.constvars, *program.invars), (*consts, *inputs), strict=True))

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else values[variable]

    for equation in program.eqns:
        arguments = [read(v) for v in equation.invars]
        inner = _inner(equation)
        if inner is not None:
            results = _evaluate(inner.jaxpr, inner.consts, arguments, found)
        else:
            results = alone(program, equation, arguments)
            found += _of(equation, arguments, results, program)
        values.update(zip(equation.outvars, results, strict=True))
    return [read(v) for v in program.outvars]


def alone(whole: Jaxpr, equation: JaxprEqn, arguments: list[Any]) -> list[Any]:
    """The results of one equation of a program."""
    inputs = {v: a for v, a in zip(equation.invars, arguments, strict=True) if not isinstance(v, Literal)}
    program = whole.replace(constvars=[], invars=list(inputs), outvars=equation.outvars, eqns=[equation])
    return list(jaxpr_as_fun(ClosedJaxpr(program, ()))(*inputs.values()))


def inner_program(equation: JaxprEqn) -> ClosedJaxpr | None:
    """The program that an equation calls, if it is a call; loops and branches are none."""
    inner = next((equation.params[name] for name in ("jaxpr", "call_jaxpr") if name in equation.params), None)
    if isinstance(inner, Jaxpr):
        return ClosedJaxpr(inner, ()) if not inner.constvars else None
    calls = equation.primitive.name in ("jit", "pjit", "custom_jvp_call", "custom_vjp_call", "closed_call", "core_call")
    return inner if calls else None


def _inner(equation: JaxprEqn) -> ClosedJaxpr | None:
    """The program that an equation calls, unless it is a smooth function's."""
    return None if equation.params.get("name") in SMOOTH else inner_program(equation)


def _of(equation: JaxprEqn, arguments: list[Any], results: list[Any], program: Jaxpr) -> list[Array]:
    name = equation.primitive.name
    if name in ("gt", "ge", "lt", "le"):
        return results
    if name in ("max", "min"):
        return [jnp.greater(*jnp.broadcast_arrays(*arguments))]
    if name in ("abs", "sign"):
        return [arguments[0] > 0]
    if name == "clamp":
        low, value, high = jnp.broadcast_arrays(*arguments)
        return [value > low, value < high]
    if name in ("reduce_max", "reduce_window_max") and not _is_held(equation, program):
        _, pull = jax.vjp(lambda v: equation.primitive.bind(v, **equation.params), arguments[0])
        return [pull(jnp.ones_like(results[0]))[0] > 0]
    return []


def _is_held(equation: JaxprEqn, program: Jaxpr) -> bool:
    """Whether a maximum is only a shift, as in a softmax: it goes nowhere but into `stop_gradient`."""
    users = [e.primitive.name for e in program.eqns if equation.outvars[0] in e.invars]
    return bool(users) and set(users) == {"stop_gradient"}
