"""Drives a_k: the library's own flax modules for dense and convolutional layers. Any flax module can be one
(see `epjax.network.modules`).

Convolutions are NHWC. The gradients of a convolution for its input and for its kernel run as forward convolutions with
their axes in order: XLA on CPU runs the forms that jax derives three times and seven times slower inside a loop.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer
from jax import lax

from epjax.shapes import Array, Inexact

Fan = Literal["fan_in", "fan_out"]


def uniform(gain: float, fan: Fan) -> Initializer:
    """w ~ U(-c, c), c = gain * sqrt(1 / fan); fan_out of a convolution is C_out * 3 * 3. docs/method.md section 6."""
    return jax.nn.initializers.variance_scaling(gain**2 / 3, fan, "uniform")


class OneExample(nn.Module):
    """A linen module that takes ONE example, without a batch axis. Other flax modules are given a batch of one."""


class Dense(OneExample):
    """a = W vec(h) + b: [...] -> [features]. Skip inputs add W_s vec(h_s)."""

    features: int
    gain: float = 1.0
    fan: Fan = "fan_in"

    @nn.compact
    def __call__(self, h: Inexact[Array, "..."], *skips: Inexact[Array, "..."]) -> Inexact[Array, " {self.features}"]:
        """a from h of any shape (and skip inputs of any shape)."""
        init = uniform(self.gain, self.fan)
        a = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(_accumulator(h))
        for name, v in _named(h, skips):
            kernel = self.param(name, init, (v.size, self.features), jnp.float32)
            a += jnp.dot(v.ravel(), kernel, preferred_element_type=_accumulator(h))
        return a


class Conv(OneExample):
    """a = pool(w * h) + b: 3x3 convolution, stride 1, padding 1, then an optional 2x2 max-pool.

    [H, W, C] -> [H, W, features], or [H // 2, W // 2, features] with `pool`. A skip input [H_s, W_s, C_s] adds
    a learned 1x1 convolution of stride H_s // H_out.
    """

    features: int
    pool: bool = False
    gain: float = 1.0
    fan: Fan = "fan_in"

    @nn.compact
    def __call__(
        self, h: Inexact[Array, "height width channels"], *skips: Inexact[Array, "_ _ _"]
    ) -> Inexact[Array, "_ _ {self.features}"]:
        """a from h, of half the height and width with `pool`."""
        init = uniform(self.gain, self.fan)
        kernel = self.param("kernel", init, (3, 3, h.shape[-1], self.features), jnp.float32)
        a = conv3x3(h, kernel)
        a = max_pool(a) if self.pool else a
        for name, v in _named(h, skips)[1:]:
            stride = v.shape[0] // a.shape[0]
            v = v[::stride, ::stride]
            weight = self.param(name, init, (1, 1, v.shape[-1], self.features), jnp.float32)
            a += jnp.dot(v, weight[0, 0], preferred_element_type=a.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return a + bias.astype(a.dtype)[None, None]


@jax.custom_jvp
def conv3x3(
    h: Inexact[Array, "height width channels"], kernel: Inexact[Array, "3 3 channels features"]
) -> Inexact[Array, "height width features"]:
    """The cross-correlation h * kernel, stride 1, padding 1, accumulated in at least float32."""
    return _correlate(h, kernel, "HWIO", _accumulator(h))


@conv3x3.defjvp
def _conv3x3_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (h, kernel), (dh, dkernel) = primals, tangents
    a = conv3x3(h, kernel)
    # Written with axes exchanged, so that their transposes, which are what is run, have them in order.
    by_h = _correlate(dh, kernel.swapaxes(2, 3), "HWOI", h.dtype)
    across = h[None].transpose(3, 1, 2, 0), dkernel.transpose(2, 0, 1, 3)
    by_kernel = _convolve(*across, ("CHWN", "IHWO", "HWNC"), h.dtype)[:, :, 0]
    return a, (by_h + by_kernel).astype(a.dtype)


def _correlate(h: Array, kernel: Array, layout: str, dtype: jnp.dtype) -> Array:
    return _convolve(h[None], kernel, ("NHWC", layout, "NHWC"), dtype)[0]


def _convolve(h: Array, kernel: Array, axes: tuple[str, str, str], dtype: jnp.dtype) -> Array:
    padding, strides = ((1, 1), (1, 1)), (1, 1)
    return lax.conv_general_dilated(h, kernel, strides, padding, dimension_numbers=axes, preferred_element_type=dtype)


@jax.custom_jvp
def max_pool(a: Inexact[Array, "height width channels"]) -> Inexact[Array, "height//2 width//2 channels"]:
    """2x2 maximum, stride 2; a tie goes to the first in reading order."""
    return _routes(_windows(a))[2]


@max_pool.defjvp
def _max_pool_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # A sum over each window, whose transpose is one selection: that of a slice would pad, once for each place.
    lower, right, out = _routes(_windows(primals[0]))
    second = jnp.array([False, True])
    row, column = second[None, :, None, None, None], second[None, None, None, :, None]
    here = (lower[:, None, :, None] == row) & (right[:, :, :, None] == column)
    return out, jnp.sum(jnp.where(here, _windows(tangents[0]), 0), axis=(1, 3))


def _windows(a: Array) -> Array:
    """[H, 2, W, 2, C]."""
    H, W, C = a.shape[0] // 2, a.shape[1] // 2, a.shape[2]
    return a[: 2 * H, : 2 * W].reshape(H, 2, W, 2, C)


def _routes(a: Array) -> tuple[Array, Array, Array]:
    """Whether the lower row has the maximum [H, W, C], whether a row's right one [H, 2, W, C], and the maximum."""
    right = a[:, :, :, 1] > a[:, :, :, 0]
    rows = jnp.where(right, a[:, :, :, 1], a[:, :, :, 0])
    lower = rows[:, 1] > rows[:, 0]
    return lower, right, jnp.where(lower, rows[:, 1], rows[:, 0])


def _accumulator(v: Array) -> jnp.dtype:
    return jnp.dtype(jnp.float32) if v.dtype.itemsize < 4 else v.dtype


def _named(h: Array, skips: tuple[Array, ...]) -> list[tuple[str, Array]]:
    return [("kernel", h), *((f"skip_kernel_{i}", v) for i, v in enumerate(skips, start=1))]
