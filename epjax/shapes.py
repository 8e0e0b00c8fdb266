"""Shapes in types: `Float[Array, "batch classes"]` says what a docstring would have to.

One vocabulary of dimensions, here and nowhere else:

    batch      examples                       classes    units of the output
    phases     nudged phases of a scheme      *state     the dimensions of one layer's state, any number of them
    features   units of a layer               height width channels    an image
    layers     L of a network, or blocks of a system
    ...        any dimensions: those of an input, which a model knows

The names come from jaxtyping where it is installed, and the tests check them at every call by its import hook. Without
it they are plain arrays: users pay nothing.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax import Array

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Inexact, Int, Shaped
else:
    try:
        from jaxtyping import Bool, Float, Inexact, Int, Shaped
    except ModuleNotFoundError:

        class _Plain:
            """`Float[Array, "batch"]` is Array."""

            def __class_getitem__(cls, item: Any) -> Any:
                return item[0]

        Bool = Float = Inexact = Int = Shaped = _Plain

__all__ = ["Array", "Bool", "Float", "Inexact", "Int", "Shaped"]


InputShape = Sequence[int] | jax.ShapeDtypeStruct | Array
"""The shape of one input, without a batch axis, or an example of one."""


def shape_of(input_shape: InputShape) -> tuple[int, ...]:
    """The shape itself. Raises ValueError for what is no shape of whole positive numbers."""
    shape = getattr(input_shape, "shape", input_shape)
    sizes = tuple(shape) if isinstance(shape, Sequence) else (None,)
    if not all(isinstance(n, int | np.integer) and not isinstance(n, bool) and n > 0 for n in sizes):
        raise ValueError(f"input_shape must be the shape of one input, such as (32, 32, 3), got {input_shape!r}")
    return tuple(int(n) for n in sizes)


def is_known(y: Any) -> bool:
    """Whether y has values, all of them here."""
    return not isinstance(y, jax.core.Tracer) and getattr(y, "is_fully_addressable", True)
