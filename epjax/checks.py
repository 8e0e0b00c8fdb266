"""What is given to an estimator, looked at once before anything is computed: a network, a batch, its labels.

A wrong argument is refused by one sentence. What depends on shapes and dtypes is looked at once for each kind of them,
when a step is traced; what depends on values, where they are known. A compiled step costs nothing more.
"""

import warnings
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from epjax.cost import COSTS, Cost, binary_cross_entropy, check_labels, cross_entropy
from epjax.network import Network, Params
from epjax.network.arguments import check_example
from epjax.shapes import is_known


@runtime_checkable
class Reads(Protocol):
    """A system that may take indices for its input."""

    def as_input(self, params: Params, x: Any) -> Any:
        """A batch as what the states of the input are made of."""
        ...


class Examined(Protocol):
    """A system, as far as it is looked at here."""

    def examine(self, params: Params, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        """The free output for an input of that kind. Raises ValueError where there is none."""
        ...

    def check_values(self, params: Params, x: Any) -> None:
        """Raises ValueError for parameters and inputs whose values it cannot take."""
        ...


def warn_of_projection(net: Network, cost: Cost) -> None:
    """Warns where cross-entropy meets a projection.

    An output that is projected, as by a ReLU, cannot follow the cost below its range: units at rest learn nothing.
    """
    last = net.activation(len(net))
    if cost in (cross_entropy, binary_cross_entropy) and last.projects and net.first_time("projected output"):
        warnings.warn(
            f"the output layer has activation {last.name!r}, which clips the logits of {cost.__name__}: "
            f"use 'identity' for the last layer",
            stacklevel=3,
        )


def check_batch(
    system: Examined,
    cost: Cost,
    params: Params,
    x: Any,
    y: Any,
    *,
    beta: Any = 1.0,
    key: Any = None,
    clamped: bool = False,
) -> tuple[Array, Array]:
    """x [B, ...] and y [B, ...] as arrays, once the network, its parameters and the cost have been found to take them.

    `clamped` says that the output is clamped to y, `beta` is the strength and `key` what the random scheme draws from.
    Raises ValueError, naming the argument, what was given and what is allowed.
    """
    x = system.as_input(params, x) if isinstance(system, Reads) else x
    _check_batch(x, y)
    x = jnp.asarray(x)
    output = system.examine(params, jax.ShapeDtypeStruct(x.shape[1:], x.dtype))
    if all(is_known(leaf) for leaf in jax.tree.leaves((params, x))):
        system.check_values(params, x)
    if np.shape(beta) not in ((), x.shape[:1]):
        raise ValueError(f"beta must be one strength or one for each of {x.shape[0]} examples, got {np.shape(beta)}")
    if key is not None:
        _check_key(key, x.shape[0])
    known = cost in COSTS.values()
    if known or clamped:
        if not output.shape:
            raise ValueError("the output must have at least one axis, that of the classes, but is a single number")
        check_labels(cost, y, output.shape)
    if not known:
        _check_cost(cost, output, y)
    return x, jnp.asarray(y)


def _check_batch(x: Any, y: Any) -> None:
    check_example(x)
    if not hasattr(y, "shape") or not hasattr(y, "dtype"):
        raise ValueError(f"y must be an array of labels, got a {type(y).__name__}")
    if not (jnp.issubdtype(y.dtype, jnp.number) or y.dtype == bool) or jnp.issubdtype(y.dtype, jnp.complexfloating):
        raise ValueError(f"y must be integers, booleans or floats, got {y.dtype}")
    if len(x.shape) < 1 or x.shape[0] < 1:
        raise ValueError(f"x must be a batch [B, ...] of at least one example, got shape {x.shape}")
    if y.shape[:1] != x.shape[:1]:
        raise ValueError(f"y must hold a label for each of {x.shape[0]} examples, got shape {y.shape}")


def _check_key(key: Any, B: int) -> None:
    if not isinstance(key, Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        what = f"{key.dtype} {list(key.shape)}" if isinstance(key, Array) else type(key).__name__
        raise ValueError(f"key must be made by jax.random.key, got {what}: jax.random.wrap_key_data takes an old one")
    if key.shape not in ((), (B,)):
        raise ValueError(f"key must be one key or one for each of {B} examples, got {list(key.shape)}")


def _check_cost(cost: Cost, output: jax.ShapeDtypeStruct, y: Any) -> None:
    """Raises ValueError unless the user's cost gives a number for one example."""
    name = getattr(cost, "__name__", type(cost).__name__)
    try:
        value = jax.eval_shape(cost, output, jax.ShapeDtypeStruct(y.shape[1:], y.dtype))
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        what = f"output {output.shape} and y {y.shape[1:]} of one example"
        raise ValueError(f"cost {name} refuses {what}: {reason}") from error
    if not hasattr(value, "shape") or value.shape != () or not jnp.issubdtype(value.dtype, jnp.inexact):
        what = f"{value.dtype} {list(value.shape)}" if hasattr(value, "shape") else f"a {type(value).__name__}"
        raise ValueError(f"cost {name} must give one number of a floating dtype for one example, got {what}")
