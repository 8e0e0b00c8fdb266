"""The gradient for the weights of several states at once: one product where each state would take its own.

    a_p = W v_p                                 p = 1..P states of one example: the nudged phases of a scheme
    sum_p w_p v_p delta_p^T                     the gradient for W of sum_p w_p L(a_p), delta_p = dL / da_p: P products
    (sum_p c_p v_p) (sum_p w_p delta_p)^T       what is taken for it here: one product, of a mean and a contrast

With c_p = 1/2 and w_p = +-1 / (2 beta), of two phases +-beta: v+- = vbar +- d and delta+- = deltabar +- e, so that

    (v+ delta+^T - v- delta-^T) / 2 beta = (vbar e^T + d deltabar^T) / beta

and d deltabar^T is left out. In a smooth network d is O(beta) and deltabar, the even part of an error, O(beta^2): that
is of third order, and O(beta^2) of the gradient, as is what a centered scheme leaves. It is zero, the product exact,
where the phases see one v (the clamped input) or where delta- = -delta+ (no gate, no curvature above). At a unit that
only one phase lets through deltabar is O(beta), as is the error of its gate. With a scheme's own c_p and
w_p = c_p / (s_p beta) both factors are what the scheme makes of v and of delta, right to its order, O(beta^2N) with N
points.

Nothing but products is touched. Each delta_p comes through its own phase's gates and pooling routes, and biases, scales
of norms and whatever else is no product have the sum of all phases. So the mean of the states needs no gates or routes
of its own, and no forward pass.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from epjax.network.affine import PRODUCTS
from epjax.network.kinks import alone, inner_program

FIXED, WEIGHT, STATE = 0, 1, 2
"""What a number of a program depends on: nothing, the parameters alone, the states as well."""


def at_mean_states(f: Callable[..., Array], c: Array, axis: str, theta: Any, *states: Array) -> Array:
    """f(theta, *states) of one phase, whose gradient for theta takes each product at the mean state sum_p c_p v_p.

    Under a `jax.vmap` of `axis` over the phases, with c [] that of this phase. The value, the gradient for the
    states, and the gradient for parameters that enter no product are those of f.
    """
    program = jax.make_jaxpr(f)(theta, *states)
    parameters, inputs = jax.tree.leaves(theta), list(states)
    kinds = [WEIGHT] * len(parameters) + [STATE] * len(inputs)

    def mean(v: Array) -> Array:
        return lax.psum(lax.stop_gradient(c.astype(v.dtype) * v), axis)

    consts = [(v, FIXED) for v in program.consts]
    given = list(zip([*parameters, *inputs], kinds, strict=True))
    return _evaluate(program.jaxpr, consts, given, mean)[0][0]


Known = tuple[Any, int]
"""A number and its kind."""


def _evaluate(program: Jaxpr, consts: list[Known], given: list[Known], mean: Callable[[Array], Array]) -> list[Known]:
    known: dict[Any, Known] = dict(zip((*program.constvars, *program.invars), (*consts, *given), strict=True))

    def read(variable: Any) -> Known:
        return (variable.val, FIXED) if isinstance(variable, Literal) else known[variable]

    for equation in program.eqns:
        found = [read(v) for v in equation.invars]
        inner = inner_program(equation)
        if inner is not None and equation.primitive.name not in OWN_DERIVATIVE:
            results = _evaluate(inner.jaxpr, [(v, FIXED) for v in inner.consts], found, mean)
        else:
            of = _product if _is_product(equation, [kind for _, kind in found]) else _plain
            kind = max((kind for _, kind in found), default=FIXED)
            with _at_its_precision(inner):
                results = [(v, kind) for v in of(program, equation, found, mean)]
        known.update(zip(equation.outvars, results, strict=True))
    return [read(v) for v in program.outvars]


def _at_its_precision(call: Any) -> Any:
    """Where the derivative of a call is made: with the precision that its own products were traced with."""
    found = [e.params["precision"] for e in call.jaxpr.eqns if e.params.get("precision")] if call is not None else []
    asked = found[0][0] if found and isinstance(found[0], tuple) else found[0] if found else None
    names = {lax.Precision.HIGHEST: "highest", lax.Precision.HIGH: "tensorfloat32"}
    return jax.default_matmul_precision(names[asked]) if asked in names else nullcontext()


OWN_DERIVATIVE = frozenset({"custom_jvp_call", "custom_vjp_call"})
"""Calls that are not looked into: of a weight and a state it is a product, as the library's own convolution is."""


def _is_product(equation: JaxprEqn, kinds: list[int]) -> bool:
    return equation.primitive.name in PRODUCTS - {"mul"} | OWN_DERIVATIVE and {WEIGHT, STATE} <= set(kinds)


def _plain(program: Jaxpr, equation: JaxprEqn, found: list[Known], mean: Callable[[Array], Array]) -> list[Any]:
    del mean
    return alone(program, equation, [v for v, _ in found])


def _product(program: Jaxpr, equation: JaxprEqn, found: list[Known], mean: Callable[[Array], Array]) -> list[Any]:
    """The product of this phase, with the mean's gradient for its weight."""
    here = [lax.stop_gradient(v) if kind == WEIGHT else v for v, kind in found]
    there = [mean(v) if kind == STATE else v for v, kind in found]
    values, means = alone(program, equation, here), alone(program, equation, there)
    return [a + _only_the_gradient(m) for a, m in zip(values, means, strict=True)]


@jax.custom_jvp
def _only_the_gradient(v: Array) -> Array:
    return _zeros_of(v)


@_only_the_gradient.defjvp
def _only_the_gradient_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _zeros_of(primals[0]), tangents[0]


def _zeros_of(v: Array) -> Array:
    """Zeros that are mapped where v is, as its tangent is: in a loop jax wants both alike. XLA leaves out v."""
    return lax.select(jnp.zeros(v.shape, bool), v, jnp.zeros_like(v))
