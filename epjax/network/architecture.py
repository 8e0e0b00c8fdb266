"""Networks: a drive and an activation a layer, skip connections, the free phase. Layers count from 1; h_0 = x."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from epjax.network.activation import Activation, relu
from epjax.network.modules import Drive, Refused, as_drive
from epjax.network.precision import Precision, at_precision, check_precision

Params = tuple[Any, ...]
"""One pytree of parameters a layer, float32 unless the caller casts it."""


States = tuple[Array, ...]
"""(h_1, ..., h_L) of one example."""


@dataclass(frozen=True)
class Layer:
    """f_k = phi(a_k) with a_k = drive(h_{k-1}, *[h_s for s in skips]).

    `drive` is any flax module, linen or nnx, that is a function of one example (see `epjax.network.modules`). `skips`
    are the earlier layers (0 is the input) whose states it takes after h_{k-1}. Raises ValueError for anything else.
    """

    drive: nn.Module | nnx.Module | Drive
    activation: Activation = relu
    skips: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _ = self.function  # an nnx module is taken as it is now

    @cached_property
    def function(self) -> Drive:
        """The drive as a pure function of its parameters."""
        return as_drive(self.drive)


@dataclass(frozen=True)
class Network:
    """A predictive coding network: f_k = phi_k(drive_k(theta_k, h_{k-1}, skips)), k = 1..L.

    `precision` is that of the products in every drive (see `epjax.network.precision`). Raises ValueError for an empty
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

        An nnx module gives the parameters that it holds. Raises ValueError, before anything is compiled, naming the
        layer whose module refuses what the layer below gives it, mixes examples, draws random numbers or keeps state.
        """
        params: list[Any] = []
        h = [jax.ShapeDtypeStruct(tuple(input_shape), jnp.float32)]
        for k, layer in enumerate(self.layers, start=1):
            inputs = [h[j] for j in self.sources(k)]
            try:
                params.append(layer.function.init(jax.random.fold_in(key, k), *inputs))
                h.append(jax.eval_shape(lambda p, *i, k=k: self.predict(p, k, *i), params[-1], *inputs))
            except Refused as error:
                raise ValueError(f"layer {k} ({layer.function.name}) {error}") from None
            except Exception as error:
                shapes = " and ".join(
                    f"{v.shape} of {_source(j)}" for j, v in zip(self.sources(k), inputs, strict=True)
                )
                raise ValueError(f"layer {k} ({layer.function.name}) refuses {shapes}: {_sentence(error)}") from error
            if 0 in h[-1].shape:
                raise ValueError(f"input_shape {tuple(input_shape)} is too small: layer {k} gives shape {h[-1].shape}")
            if h[-1].dtype != jnp.float32:
                raise ValueError(
                    f"layer {k} ({layer.function.name}) gives {h[-1].dtype}, but states are float32: "
                    f"leave the module's dtype alone and set the network's precision"
                )
        return tuple(params)

    def drive(self, theta_k: Any, k: int, *inputs: Array) -> Array:
        """a_k = drive_k(theta_k, h_{k-1} [, skip inputs]) of one example."""
        return at_precision(self.precision, self.layers[k - 1].function.apply, theta_k, *inputs)

    def predict(self, theta_k: Any, k: int, *inputs: Array) -> Array:
        """f_k = phi_k(a_k) of one example."""
        return self.activation(k)(self.drive(theta_k, k, *inputs))

    def forward(self, params: Params, x: Array) -> States:
        """The free phase, h_k = f_k(h_{k-1}) for k = 1..L: every state of ONE example; vmap for a batch."""
        h = [x]
        for k in range(1, len(self) + 1):
            h.append(self.predict(params[k - 1], k, *(h[j] for j in self.sources(k))))
        return tuple(h[1:])


def _source(j: int) -> str:
    return f"layer {j}" if j else "the input"


def _sentence(error: Exception) -> str:
    """The first line: flax and jax explain at length."""
    return str(error).strip().split("\n")[0] or type(error).__name__
