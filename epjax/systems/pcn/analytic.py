"""Which networks have analytic functions, so that their states at complex beta are those of a holomorphic estimate."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr

from epjax.network import Network, Params
from epjax.network.activation import ACTIVATIONS
from epjax.network.modules import Refused

ALTERNATIVE = "use smooth functions, or scheme='centered' with points"


def check_smooth(net: Network) -> None:
    """Raises ValueError for products that are rounded, and for activations with a kink."""
    if net.precision != "float32":
        raise ValueError(f"scheme='holomorphic' needs precision='float32', got {net.precision!r}")
    for k in range(1, len(net) + 1):
        if net.activation(k).projects:
            what = f"layer {k} has {net.activation(k).name!r}"
            raise ValueError(f"scheme='holomorphic' needs functions without kinks, but {what}: {ALTERNATIVE}")


REAL_ONLY = frozenset(
    {"max", "min", "abs", "sign", "floor", "ceil", "round", "clamp", "select_n", "sort", "real", "imag", "conj"}
    | {"reduce_max", "reduce_min", "argmax", "argmin", "cummax", "cummin", "reduce_window_max", "reduce_window_min"}
    | {"gt", "ge", "lt", "le", "is_finite", "select_and_scatter_add", "select_and_gather_add", "reduce_precision"}
)
"""Operations that are no analytic functions of what goes in."""


def check_analytic(net: Network, params: Params, x: Array) -> None:
    """Raises ValueError where a drive is not analytic: a maximum, an absolute value, a comparison.

    params and x [...], one example's, are complex; only their shapes are used.
    """
    h = [jax.eval_shape(lambda v: v, x)]
    for k in range(1, len(net) + 1):
        inputs, drive = [h[j] for j in net.sources(k)], net.layers[k - 1].function.name
        own = [] if net.activation(k) in ACTIVATIONS.values() else [net.activation(k).phi]
        try:
            a, found = _traced(lambda theta, *i, k=k: net.drive(theta, k, *i), params[k - 1], *inputs)
            found |= {name for phi in own for name in _traced(phi, a)[1]}
        except (TypeError, Refused) as error:
            raise ValueError(f"scheme='holomorphic': layer {k} ({drive}) refuses complex numbers: {error}") from None
        if found:
            what = f"layer {k} ({drive}) computes {', '.join(sorted(found))}"
            raise ValueError(f"scheme='holomorphic' needs analytic functions, but {what}: {ALTERNATIVE}")
        h.append(a)


def _traced(f: Callable[..., Array], *arguments: Any) -> tuple[jax.ShapeDtypeStruct, set[str]]:
    """The shape of f's result, and its operations that are not analytic."""
    program, shape = jax.make_jaxpr(f, return_shape=True)(*arguments)
    return shape, _real_only(program.jaxpr)


def _real_only(program: Jaxpr) -> set[str]:
    found: set[str] = set()
    for equation in program.eqns:
        found |= {str(equation.primitive)} & REAL_ONLY
        for inner in jax.tree.leaves(list(equation.params.values())):
            if isinstance(inner, ClosedJaxpr | Jaxpr):
                found |= _real_only(inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner)
    return found
