"""Residual networks (He et al., arXiv:1512.03385) with GroupNorm (Wu and He, arXiv:1803.08494), as PCNs.

A layer is a block, h_k = f_k = relu(h_{k-1} + F(h_{k-1})) with identity activation: its prediction error is that of
the block's output, and what happens inside a block is a forward pass. BatchNorm would mix the examples.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from epjax.models.runs import run_of
from epjax.models.sizes import classes
from epjax.network import Layer, Network, Repeat
from epjax.network.activation import identity
from epjax.network.precision import Precision

GROUPS = 32
"""Groups of every GroupNorm at width 1; they scale with the channels, so that a group keeps its size."""

Conv = partial(nn.Conv, use_bias=False, kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"))


class GroupNorm(nn.Module):
    """flax's GroupNorm, parameters too, its scale formed a group before it is spread over channels.

    So it has one form whether it is differentiated or not, and XLA sees that what follows it was computed before.
    """

    groups: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] -> the same, of mean 0 and variance 1 over a group of channels, times scale, plus bias."""
        scale = self.param("scale", nn.initializers.ones_init(), (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros_init(), (x.shape[-1],))
        grouped = x.reshape((*x.shape[:-1], self.groups, -1))
        centred = grouped - jnp.mean(grouped, axis=(1, 2, 4))[:, None, None, :, None]
        variance = jnp.mean(centred * centred, axis=(1, 2, 4))
        y = centred * jax.lax.rsqrt(variance + 1e-6)[:, None, None, :, None]
        return y.reshape(x.shape) * scale.reshape((1, 1, 1, -1)) + bias.reshape((1, 1, 1, -1))


class Stem(nn.Module):
    """relu(norm(conv)): 3x3 for small images, else 7x7 of stride 2 and a 3x3 max-pool of stride 2."""

    channels: int
    groups: int
    small: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] -> [B, H, W, channels], or a quarter of H and W."""
        x = Conv(self.channels, (3, 3))(x) if self.small else Conv(self.channels, (7, 7), strides=2, padding=3)(x)
        x = nn.relu(GroupNorm(self.groups)(x))
        return x if self.small else nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))


class Block(nn.Module):
    """relu(x + F(x)): F is two 3x3 convolutions, or with `bottleneck` 1x1, 3x3 and 1x1 to four times the channels.

    The stride is that of the (first) 3x3 convolution. Where F changes the shape, x goes through a 1x1 convolution.
    """

    channels: int
    groups: int
    stride: int = 1
    bottleneck: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] -> [B, H / stride, W / stride, channels (times 4)]."""
        norm = partial(GroupNorm, self.groups)
        c, s, y = self.channels, self.stride, x
        if self.bottleneck:
            y = nn.relu(norm()(Conv(c, (1, 1))(y)))
            y = nn.relu(norm()(Conv(c, (3, 3), s, padding=1)(y)))
            y = norm()(Conv(4 * c, (1, 1))(y))
        else:
            y = nn.relu(norm()(Conv(c, (3, 3), s, padding=1)(y)))
            y = norm()(Conv(c, (3, 3), padding=1)(y))
        if x.shape != y.shape:
            x = norm()(Conv(y.shape[-1], (1, 1), s)(x))
        return nn.relu(x + y)


class Head(nn.Module):
    """A dense layer on the mean over all places."""

    num_classes: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] -> [B, num_classes]."""
        return nn.Dense(self.num_classes)(jnp.mean(x, axis=(1, 2)))


def resnet(
    blocks: Sequence[int],
    num_classes: int = 1000,
    *,
    bottleneck: bool = False,
    width: float = 1.0,
    small_images: bool = False,
    stacked: bool = False,
    precision: Precision = "float32",
) -> Network:
    """Stem, `blocks` blocks in each stage of 64, 128, 256, ... channels, head: L = 2 + sum(blocks) layers.

    Every stage after the first halves height and width. `width` multiplies channels and groups. With `small_images`
    (32x32) the stem is a 3x3 convolution without pooling. With `stacked` a stage's equal blocks, all but one that
    changes the shape, are one `epjax.Repeat`. Raises ValueError for a width that is not positive, and for num_classes
    below 1.
    """
    if not width > 0:
        raise ValueError(f"width must be a positive multiplier, got {width}")
    groups = max(1, round(GROUPS * width))
    layers: list[Layer | Repeat] = [Layer(Stem(2 * groups, groups, small_images), identity)]
    for stage, count in enumerate(blocks):

        def block(stride: int = 1, stage: int = stage) -> tuple[Layer, ...]:
            return (Layer(Block(2 * groups * 2**stage, groups, stride, bottleneck), identity),)

        changes = count > 0 and (stage > 0 or bottleneck)  # the first gives another shape than it takes
        layers += block(2 if stage else 1) if changes else ()
        layers += run_of(count - changes, block, stacked=stacked)
    layers.append(Layer(Head(classes(num_classes)), identity))
    return Network(tuple(layers), precision)


def resnet18(num_classes: int = 1000, **options: object) -> Network:
    """`resnet` of 2, 2, 2, 2 blocks of two convolutions: L = 10, 11.7 M parameters at 1000 classes."""
    return resnet((2, 2, 2, 2), num_classes, **options)  # type: ignore[arg-type]


def resnet34(num_classes: int = 1000, **options: object) -> Network:
    """`resnet` of 3, 4, 6, 3 blocks of two convolutions: L = 18, 21.8 M parameters at 1000 classes."""
    return resnet((3, 4, 6, 3), num_classes, **options)  # type: ignore[arg-type]


def resnet50(num_classes: int = 1000, **options: object) -> Network:
    """`resnet` of 3, 4, 6, 3 bottleneck blocks: L = 18, 25.6 M parameters at 1000 classes."""
    return resnet((3, 4, 6, 3), num_classes, bottleneck=True, **options)  # type: ignore[arg-type]
