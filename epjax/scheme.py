"""Which nudged phases there are and how they make one gradient: strengths s_p beta, coefficients c_p of sum 1.

    gradient = sum_p c_p G(s_p beta) / (s_p beta)

    forward, backward    s = 1 or -1                                                              error O(beta)
    random               s = 1 or -1, drawn for each example                                      error O(beta)
    centered             s = 1..N, -1..-N       c_j = 1/2 prod_{i != j} i^2 / (i^2 - j^2)         error O(beta^(2 N))
    holomorphic          s = exp(i pi p / N)    c = 1 / 2N for each of the 2N roots of unity      error O(beta^(2 N))

N is `points`. One point is [G(beta) - G(-beta)] / (2 beta) in both; more of them cancel the next orders of the error,
on the real line by Richardson's extrapolation, around a circle by Cauchy's integral (Laborieux and Zenke,
arXiv:2209.00530).
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr

from epjax.network import Network, Params
from epjax.network.activation import ACTIVATIONS
from epjax.network.modules import Refused

Scheme = Literal["centered", "forward", "backward", "random", "holomorphic"]

ALTERNATIVE = "use smooth functions, or scheme='centered' with points"


def check_scheme(scheme: str, points: int, net: Network) -> None:
    """Raises ValueError for an unknown scheme, points that it does not have, and activations with a kink."""
    if scheme not in get_args(Scheme):
        raise ValueError(f"scheme must be one of {', '.join(get_args(Scheme))}, got {scheme!r}")
    if points < 1 or (points > 1 and scheme not in ("centered", "holomorphic")):
        raise ValueError(f"points must be 1, or more with scheme 'centered' or 'holomorphic', got {points} ({scheme})")
    if scheme != "holomorphic":
        return
    if net.precision != "float32":
        raise ValueError(f"scheme='holomorphic' needs precision='float32', got {net.precision!r}")
    for k in range(1, len(net) + 1):
        if net.activation(k).projects:
            what = f"layer {k} has {net.activation(k).name!r}"
            raise ValueError(f"scheme='holomorphic' needs functions without kinks, but {what}: {ALTERNATIVE}")


def nudges(scheme: Scheme, points: int, batch: int, key: Array | None, dtype: Any) -> tuple[Array, Array]:
    """s and c [B, P] for P phases, positive strengths first; complex for the holomorphic scheme.

    Of its roots those below the real axis are left out: G takes conjugate values there, so twice the real part of the
    others stands for both. One key draws the random scheme's signs, or keys [B] one each.
    """
    N = points

    def every(v: np.ndarray) -> Array:
        return jnp.broadcast_to(jnp.array(v, dtype), (batch, len(v)))

    if scheme == "random":
        if key is None:
            raise ValueError("key must be a jax random key for scheme='random', got None")
        if key.ndim:
            signs = jax.vmap(lambda key: jax.random.rademacher(key, (1,), dtype))(key)
        else:
            signs = jax.random.rademacher(key, (batch, 1), dtype)
        return signs, jnp.ones_like(signs)
    if scheme == "holomorphic":
        s = np.append(np.exp(1j * np.pi * np.arange(N) / N), -1)
        c = np.full(N + 1, 1 / N) - np.isin(np.arange(N + 1), (0, N)) * 0.5 / N
        dtype = np.result_type(dtype, np.complex64)
    elif scheme == "centered":
        j = np.arange(1, N + 1)
        others = [np.delete(j, i) for i in range(N)]
        s = np.concatenate([j, -j])
        c = np.tile([0.5 * np.prod(i**2 / (i**2 - m**2)) for m, i in zip(j, others, strict=True)], 2)
    else:
        s, c = np.array([1.0 if scheme == "forward" else -1.0]), np.ones(1)
    return jnp.broadcast_to(jnp.array(s, dtype), (batch, len(s))), jnp.broadcast_to(
        jnp.array(c, dtype), (batch, len(c))
    )


def as_complex(tree: Any) -> Any:
    """The same numbers, complex."""
    return jax.tree.map(lambda v: v.astype(np.result_type(v.dtype, np.complex64)), tree)


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
