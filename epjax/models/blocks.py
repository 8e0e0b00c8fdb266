"""The blocks of transformers, each a layer of a PCN: its prediction error is that of a whole block."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array


class AttentionBlock(nn.Module):
    """x + attention(norm(x)); `causal`: no position sees a later one."""

    heads: int
    causal: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, tokens, features] -> the same."""
        mask = nn.make_causal_mask(jnp.ones(x.shape[:2], bool)) if self.causal else None
        return x + nn.MultiHeadDotProductAttention(self.heads, deterministic=True)(nn.LayerNorm()(x), mask=mask)


class MLPBlock(nn.Module):
    """x + W gelu(V norm(x))."""

    hidden: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, tokens, features] -> the same."""
        y = nn.gelu(nn.Dense(self.hidden)(nn.LayerNorm()(x)))
        return x + nn.Dense(x.shape[-1])(y)


class TransformerBlock(nn.Module):
    """Attention, then the MLP, in one layer: no state between the two."""

    heads: int
    hidden: int
    causal: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, tokens, features] -> the same."""
        return MLPBlock(self.hidden)(AttentionBlock(self.heads, self.causal)(x))


def check_sizes(heads: int, features: int, **sizes: int) -> None:
    """Raises ValueError for a size below 1, and for features that the heads do not divide."""
    for name, value in {**sizes, "features": features, "heads": heads}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if features % heads:
        raise ValueError(f"features must be a multiple of the {heads} heads, got {features}")
