"""What a step tells of a run's health, from numbers that it has anyway."""

import jax
import jax.numpy as jnp
import optax

from epjax.network import Params
from epjax.shapes import Array, Inexact, Shaped

Facts = dict[str, Shaped[Array, ""]]


def of_gradient(grads: Params) -> Facts:
    """`gradient_norm`, and `silent_layers`, the number of layers with parameters whose gradient is all zero.

    Of parameters that are no tuple of layers, but a model's own, an entry of their mapping counts for a layer.
    """
    layers = grads if isinstance(grads, tuple) else jax.tree.leaves(grads, is_leaf=lambda v: v is not grads)
    silent = [
        jnp.all(jnp.stack([jnp.all(g == 0) for g in leaves])) for layer in layers if (leaves := jax.tree.leaves(layer))
    ]
    norm = optax.tree.norm(jax.tree.map(lambda g: g.astype(jnp.float32), grads))
    return {"gradient_norm": norm, "silent_layers": jnp.sum(jnp.stack(silent), dtype=jnp.int32)}


def of_displacement(share: Inexact[Array, "batch phases layers"]) -> Facts:
    """`displacement` of the layer where the batch's mean is largest, in the stronger phase, and `displaced_layer`."""
    by_layer = jnp.mean(jnp.max(share, axis=1), axis=0)
    return {
        "displacement": jnp.max(by_layer).astype(jnp.float32),
        "displaced_layer": jnp.argmax(by_layer).astype(jnp.int32) + 1,
    }
