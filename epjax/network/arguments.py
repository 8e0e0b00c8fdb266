"""What is given to a network, looked at before anything is computed: parameters, an example, what a module returns."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from epjax.network.modules import Refused
from epjax.shapes import is_known


def as_state(a: Any, dtype: Any) -> Array:
    """What a module gives, in the dtype of the states: those of a module that computes in bfloat16 are float32.

    Raises `Refused` for what is no array or cannot be one of real (or complex) states.
    """
    if not isinstance(a, Array):
        raise Refused(f"gives a {type(a).__name__}, but must give one array")
    if a.dtype == dtype:
        return a
    if not (jnp.issubdtype(a.dtype, jnp.floating) and jnp.issubdtype(dtype, jnp.floating)):
        raise Refused(f"gives {a.dtype}, but its states are {jnp.dtype(dtype)}")
    return a.astype(dtype)


def wide(params: Any) -> Any:
    """The widest dtype of parameters, at least float32."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(jnp.float32, *(leaf.dtype for leaf in jax.tree.leaves(params)))


def check_parameters(params: Any, L: int) -> None:
    """Raises ValueError unless params is one entry a layer."""
    given = f"{len(params)} entries" if isinstance(params, Sequence) else type(params).__name__
    if not isinstance(params, Sequence) or len(params) != L:
        raise ValueError(f"params must hold one entry for each of {L} layers, as net.init gives them, got {given}")


def check_parameters_of(expected: Any, given: Any) -> None:
    """Raises `Refused` unless one layer's parameters have the names and shapes of `expected`, and real numbers."""
    wanted, found = _named(expected), _named(given)
    for name in (*wanted, *found):
        if wanted.get(name) == found.get(name):
            continue
        here, there = (f"{tree[name]}" if name in tree else "none" for tree in (found, wanted))
        raise Refused(f"must have parameters as net.init gives them: {name} of shape {there}, got {here}")
    for name, leaf in zip(found, jax.tree.leaves(given), strict=True):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise Refused(f"must have parameters of a floating dtype, got {leaf.dtype} for {name}")


def signature(params: Any, x: Any) -> Any:
    """What `Network.check` depends on: shapes, dtypes, structure. Raises ValueError for what is no array of reals."""
    check_example(x)
    leaves, structure = jax.tree.flatten(params)
    for leaf in leaves:
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise ValueError(f"params must hold arrays, as net.init gives them, got a {type(leaf).__name__}")
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves), x.shape, x.dtype


def check_example(x: Any) -> None:
    """Raises ValueError unless x is an array of float32, float64 or complex numbers."""
    allowed = "an array of float32 or float64"
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        raise ValueError(f"x must be {allowed}, got a {type(x).__name__}")
    if jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == bool:
        raise ValueError(f"x must be {allowed}, got {x.dtype}: normalise images to floats first, such as x / 255")
    if x.dtype not in ("float32", "float64", "complex64", "complex128"):
        raise ValueError(f"x must be {allowed}, got {x.dtype}: for products in bfloat16 set the network's precision")


def check_indices(x: Any, number: int | None) -> None:
    """Raises ValueError for an index, of values that are known, that is none of `number`: an Embed gives NaN there, or
    for a negative one the wrong row."""
    if number is None or not is_known(x) or not x.size:
        return
    indices = np.asarray(x)
    if (strange := np.argwhere(~((indices >= 0) & (indices < number)))).size:
        at = tuple(map(int, strange[0]))
        where = f"x{list(at)}" if at else "x"
        raise ValueError(f"x must hold indices 0..{number - 1}, got {indices[at]:g} at {where}")


def one_example(check: Callable[[Any, Any], Any], params: Any, x: Any) -> Any:
    """x as an array, once `check` has passed it. The ValueError says so where it is a batch of what would pass."""
    try:
        check(params, x)
    except ValueError:
        if len(getattr(x, "shape", ())) < 1 or not _passes(check, params, x):
            raise
        what = f"one example {list(x.shape[1:])}, got a batch {list(x.shape)}"
        raise ValueError(f"x must be {what}: jax.vmap maps over the examples of a batch") from None
    return jnp.asarray(x)


def _passes(check: Callable[[Any, Any], Any], params: Any, x: Any) -> bool:
    try:
        check(params, jax.ShapeDtypeStruct(x.shape[1:], x.dtype))
    except ValueError:
        return False
    return True


def _named(theta: Any) -> dict[str, tuple[int, ...]]:
    """Shapes by name. An nnx State keeps its arrays one level deeper than linen's dictionaries do."""
    leaves = jax.tree_util.tree_flatten_with_path(theta)[0]
    names = ["/".join(filter(None, map(_key, path))) for path, _ in leaves]
    return {name: tuple(leaf.shape) for name, (_, leaf) in zip(names, leaves, strict=True)}


def _key(key: Any) -> str:
    """Of a dictionary, a sequence, or an attribute."""
    return str(next((getattr(key, kind) for kind in ("key", "idx", "name") if hasattr(key, kind)), ""))
