"""A small vision transformer (Dosovitskiy et al., arXiv:2010.11929) as a PCN: attention and MLP blocks are layers."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from epjax.models.blocks import AttentionBlock, MLPBlock, check_sizes
from epjax.models.runs import run_of
from epjax.models.sizes import classes
from epjax.network import Layer, Network
from epjax.network.activation import identity
from epjax.network.precision import Precision


class Patches(nn.Module):
    """Square patches, each a token: a dense layer of its pixels plus a learned position."""

    patch: int
    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, C] -> [B, (H / patch) (W / patch), features]."""
        tokens = nn.Conv(self.features, (self.patch, self.patch), self.patch, padding="VALID")(x)
        tokens = tokens.reshape((x.shape[0], -1, self.features))
        place = self.param("place", nn.initializers.normal(0.02), (1, *tokens.shape[1:]))
        return tokens + place


class Head(nn.Module):
    """A dense layer on the mean of the normalised tokens."""

    num_classes: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, tokens, features] -> [B, num_classes]."""
        return nn.Dense(self.num_classes)(jnp.mean(nn.LayerNorm()(x), axis=1))


def vit(
    num_classes: int = 10,
    *,
    patch: int = 4,
    features: int = 192,
    depth: int = 6,
    heads: int = 3,
    stacked: bool = False,
    precision: Precision = "float32",
) -> Network:
    """Patches, `depth` times attention and MLP, head: L = 2 + 2 depth layers with identity activation.

    The defaults are for 32x32 images: 64 tokens. With `stacked` the blocks are one `epjax.Repeat`.
    Raises ValueError for a size below 1 and for features that the heads do not divide; `init` raises it for images
    smaller than a patch.
    """
    check_sizes(heads, features, patch=patch, depth=depth)

    def block() -> tuple[Layer, ...]:
        return Layer(AttentionBlock(heads), identity), Layer(MLPBlock(4 * features), identity)

    patches, head = Layer(Patches(patch, features), identity), Layer(Head(classes(num_classes)), identity)
    return Network((patches, *run_of(depth, block, stacked=stacked), head), precision)
