"""Networks: a drive and an activation a layer, skip connections, the free phase. Layers count from 1; h_0 = x."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from epjax.activation import Activation, relu
from epjax.precision import Precision, at_precision, check_precision

Params = tuple[Any, ...]
"""One pytree of parameters a layer, float32 unless the caller casts it."""

States = tuple[Array, ...]
"""(h_1, ..., h_L) of one example."""


@dataclass(frozen=True)
class Layer:
    """f_k = phi(a_k) with a_k = drive(h_{k-1}, *[h_s for s in skips]).

    `drive` is any flax linen module of one example without mutable state. `skips` are the earlier layers
    (0 is the input) whose states it takes after h_{k-1}.
    """

    drive: nn.Module
    activation: Activation = relu
    skips: tuple[int, ...] = ()


@dataclass(frozen=True)
class Network:
    """A predictive coding network: f_k = phi_k(drive_k(theta_k, h_{k-1}, skips)), k = 1..L.

    `precision` is that of the products in every drive (see `epjax.precision`). Raises ValueError for an empty
    network, a skip that does not come from an earlier layer, or an unknown precision.
    """

    layers: tuple[Layer, ...]
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        check_precision(self.precision)
        if not self.layers:
            raise ValueError("layers must hold at least one Layer, got none")
        for k, layer in enumerate(self.layers, start=1):
            if any(not 0 <= s <= k - 2 for s in layer.skips):
                raise ValueError(f"skips of layer {k} must lie in 0..{k - 2}, got {layer.skips}")

    def __len__(self) -> int:
        """L, the number of layers."""
        return len(self.layers)

    def sources(self, k: int) -> tuple[int, ...]:
        """The layers that feed layer k: k - 1, then its skips; 0 is the input."""
        return (k - 1, *self.layers[k - 1].skips)

    def targets(self, k: int) -> tuple[int, ...]:
        """The layers that layer k feeds."""
        return tuple(j for j in range(k + 1, len(self) + 1) if k in self.sources(j))

    def activation(self, k: int) -> Activation:
        """phi_k."""
        return self.layers[k - 1].activation

    def init(self, key: Array, input_shape: Sequence[int]) -> Params:
        """theta = (theta_1, ..., theta_L), drawn from `key` for one input of `input_shape` (no batch axis).

        Raises ValueError where a layer refuses its input's shape or keeps state beside its parameters.
        """
        params: list[Any] = []
        h = [jax.ShapeDtypeStruct(tuple(input_shape), jnp.float32)]
        for k, layer in enumerate(self.layers, start=1):
            inputs = [h[j] for j in self.sources(k)]
            try:
                variables = layer.drive.lazy_init(jax.random.fold_in(key, k), *inputs)
            except Exception as error:
                shapes = ", ".join(str(i.shape) for i in inputs)
                raise ValueError(f"layer {k} ({type(layer.drive).__name__}) refuses input {shapes}: {error}") from error
            if extra := sorted(set(variables) - {"params"}):
                raise ValueError(
                    f"layer {k} ({type(layer.drive).__name__}) keeps mutable state ({', '.join(extra)}); "
                    f"a drive must be a function of one example, use GroupNorm or LayerNorm instead of BatchNorm"
                )
            params.append(variables.get("params", {}))
            h.append(jax.eval_shape(lambda p, *i, k=k: self.predict(p, k, *i), params[-1], *inputs))
            if 0 in h[-1].shape:
                raise ValueError(f"input_shape {tuple(input_shape)} is too small: layer {k} gives shape {h[-1].shape}")
        return tuple(params)

    def drive(self, theta_k: Any, k: int, *inputs: Array) -> Array:
        """a_k = drive_k(theta_k, h_{k-1} [, skip inputs]) of one example."""

        def apply(theta_k: Any, *inputs: Array) -> Array:
            a = self.layers[k - 1].drive.apply({"params": theta_k}, *inputs)
            assert isinstance(a, Array)
            return a

        return at_precision(self.precision, apply, theta_k, *inputs)

    def predict(self, theta_k: Any, k: int, *inputs: Array) -> Array:
        """f_k = phi_k(a_k) of one example."""
        return self.activation(k)(self.drive(theta_k, k, *inputs))

    def forward(self, params: Params, x: Array) -> States:
        """The free phase, h_k = f_k(h_{k-1}) for k = 1..L: every state of ONE example; vmap for a batch."""
        h = [x]
        for k in range(1, len(self) + 1):
            h.append(self.predict(params[k - 1], k, *(h[j] for j in self.sources(k))))
        return tuple(h[1:])
