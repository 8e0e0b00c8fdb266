"""An ordinary causal transformer language model (Radford et al., 2019, pre-norm) as a PCN.

    h_1 = E[x] + P            tokens and positions
    h_k = block_k(h_{k-1})    attention that sees no later position, and an MLP
    h_L = W norm(h_{L-1})     logits of the next token at every position

Its cost is the mean cross-entropy over positions. A layer's prediction error is local to the layer, not to a position:
inside a block attention mixes positions as it does in any transformer.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from epjax.models.blocks import AttentionBlock, MLPBlock, TransformerBlock, check_sizes
from epjax.models.runs import run_of
from epjax.network import Layer, Network
from epjax.network.activation import identity
from epjax.network.precision import Precision

SPREAD = 0.5
"""Standard deviation of tokens and positions at the start. At the usual 0.02 the norm of the first block bends within a
nudge: of 64 features, 2 blocks, in float64 the gradient of centered EP at beta 0.05 is off by 9% there, 2e-7 here."""


class Tokens(nn.Module):
    """E[x] + P of integer tokens x, at most `length` of them."""

    vocab: int
    length: int
    features: int

    takes_indices: ClassVar[bool] = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, T] -> [B, T, features]. Raises ValueError for T > length and for x that are no integers."""
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise ValueError(f"x must hold integer tokens, got {x.dtype}")
        if x.shape[1] > self.length:
            raise ValueError(f"x must have at most {self.length} positions, the model's length, got {x.shape[1]}")
        x = jnp.where(x < 0, self.vocab, x)  # NaN as beyond the vocabulary, not the last tokens
        spread = nn.initializers.normal(SPREAD)
        place = self.param("place", spread, (self.length, self.features))
        return nn.Embed(self.vocab, self.features, embedding_init=spread)(x) + place[None, : x.shape[1]]


class Logits(nn.Module):
    """W norm(x) at every position."""

    vocab: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, T, features] -> [B, T, vocab]."""
        return nn.Dense(self.vocab, kernel_init=nn.initializers.normal(0.02))(nn.LayerNorm()(x))


def gpt(
    vocab: int,
    length: int,
    *,
    features: int = 128,
    depth: int = 4,
    heads: int = 4,
    split: bool = True,
    stacked: bool = False,
    precision: Precision = "float32",
) -> Network:
    """Tokens, `depth` blocks, logits: x [T] of integers, T <= length; output [T, vocab].

    With `split` attention and MLP are a layer each, L = 2 + 2 depth; without, a block is one layer, L = 2 + depth.
    With `stacked` the blocks are one `epjax.Repeat`.
    Labels y [T] are the next tokens; -1 does not count.
    Raises ValueError for a size below 1, and for features that the heads do not divide.
    """
    check_sizes(heads, features, vocab=vocab, length=length, depth=depth)
    hidden = 4 * features

    def block() -> tuple[Layer, ...]:
        if not split:
            return (Layer(TransformerBlock(heads, hidden, causal=True), identity),)
        return Layer(AttentionBlock(heads, causal=True), identity), Layer(MLPBlock(hidden), identity)

    tokens, logits = Layer(Tokens(vocab, length, features), identity), Layer(Logits(vocab), identity)
    return Network((tokens, *run_of(depth, block, stacked=stacked), logits), precision)
