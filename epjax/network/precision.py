"""The precision of products: what a drive's operands are rounded to before they are multiplied."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array, lax

Precision = Literal["float32", "tf32", "bfloat16"]


def check_precision(precision: str) -> None:
    """Raise ValueError for a precision that is not offered."""
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")


def at_precision(precision: Precision, f: Callable[..., Array], *args: Any) -> Array:
    """f(*args) with its products at `precision`; parameters, states and errors keep their own dtype.

    * float32: the full precision of the operands (float64 stays float64), whatever a backend's default is.
    * tf32: operands and cotangents rounded to 10 mantissa bits, then multiplied by the backend's TF32 units
      where it has them, else exactly: the same numbers on every device.
    * bfloat16: operands cast to bfloat16. The library's own drives accumulate in float32; another module
      accumulates as its backend does and rounds its result.
    """
    if precision == "float32":
        with jax.default_matmul_precision("highest"):
            return f(*args)
    if precision == "tf32":
        rounded = jax.tree.map(_round_tf32, args)
        with jax.default_matmul_precision("tensorfloat32"):
            return _round_cotangent(f(*rounded))
    dtype = jnp.result_type(*(v for v in jax.tree.leaves(args) if _is_real(v)))
    return f(*jax.tree.map(lambda v: v.astype(jnp.bfloat16) if _is_real(v) else v, args)).astype(dtype)


def _is_real(v: Array) -> bool:
    """Whether a number is none of those that a program counts with, which are not rounded."""
    return jnp.issubdtype(v.dtype, jnp.inexact)


def product(v: Array, w: Array) -> Array:
    """v @ w, accumulated in at least float32."""
    return jnp.matmul(v, w, preferred_element_type=jnp.float32 if v.dtype.itemsize < 4 else v.dtype)


def _round_tf32(v: Array) -> Array:
    return lax.reduce_precision(v, exponent_bits=8, mantissa_bits=10) if _is_real(v) else v


@jax.custom_vjp
def _round_cotangent(a: Array) -> Array:
    return a


_round_cotangent.defvjp(lambda a: (a, None), lambda _, g: (_round_tf32(g),))
