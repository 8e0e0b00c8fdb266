"""Couplings that are not what was written: few bits, mismatch from chip to chip, drift from phase to phase.

    storage    Q(theta), one of 2^b levels from - max |theta_k| to max |theta_k| of a layer, from 0 if none is negative
    mismatch   w = m Q(theta),   log m ~ N(- p^2 / 2, p^2):   E m = 1,  Var m = exp(p^2) - 1     one m for each coupling
    drift      w' = w (1 + d xi),   xi ~ N(0, 1)     at beta > 0, another xi at beta < 0; the free phase is at w

All are part of the energy, those of a bias, which is a current or a field, left alone. EP measures dE/dw where the
chip is, so that mismatch scales its steps; drift is between states that are subtracted, and is divided by beta.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp

from epjax.hardware.values import Number, is_traced, quantise
from epjax.network import Params
from epjax.shapes import Array


def stored(params: Params, bits: Number, key: Array | None = None) -> Params:
    """Q(theta): the nearest level, or with a key, stochastically, one whose mean is theta."""

    def one(v: Array, key: Array | None) -> Array:
        high = jnp.max(jnp.abs(v))
        low = jnp.where(jnp.min(v) >= 0, jnp.zeros_like(high), -high)
        return quantise(v, low, high, bits, key)

    return of_couplings(one, params, key)


def mismatched(params: Params, share: Number, key: Array) -> Params:
    """m theta with m = exp(p xi - p^2 / 2), `share` p the standard deviation of log m."""

    def one(v: Array, key: Array | None) -> Array:
        assert key is not None
        p = jnp.asarray(share, v.dtype)
        return v * jnp.exp(p * pattern(key, v) - 0.5 * p * p)

    return of_couplings(one, params, key)


def drifted(params: Params, rate: Number, key: Array) -> Params:
    """w (1 + d xi), `rate` d: the share by which a coupling moves from one phase to the next."""

    def one(v: Array, key: Array | None) -> Array:
        assert key is not None
        return v * (1 + jnp.asarray(rate, v.dtype) * pattern(key, v))

    return of_couplings(one, params, key)


@contextmanager
def constant() -> Iterator[None]:
    """Where what is computed is a number of the program, made as it is traced: it crosses to the device once."""
    with jax.ensure_compile_time_eval(), jax.transfer_guard("allow"):
        yield


def pattern(key: Array, like: Array) -> Array:
    """The chip's own standard normal numbers: a constant of a compiled program, unless the chip itself is traced."""
    if is_traced(key):
        return jax.random.normal(key, like.shape, like.dtype)
    with constant():
        return jax.random.normal(key, like.shape, like.dtype)


def of_couplings(one: Callable[[Array, Array | None], Array], params: Params, key: Array | None) -> Params:
    """`one` of every coupling with a key of its own; biases as they are."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    new = [
        v if is_bias(path) else one(v, None if key is None else folded(key, i)) for i, (path, v) in enumerate(leaves)
    ]
    return jax.tree.unflatten(tree, new)  # type: ignore[no-any-return]


def folded(key: Array, number: int) -> Array:
    """`jax.random.fold_in`, done at once where the key is known."""
    if is_traced(key):
        return jax.random.fold_in(key, number)
    with constant():
        return jax.random.fold_in(key, number)


def is_bias(path: Any) -> bool:
    """Whether a parameter at this path of the tree is a bias."""
    return getattr(path[-1], "key", None) == "bias"
