"""A layer: a drive and an activation, fed by the layer below and by earlier ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import flax.linen as nn

from epjax.network.activation import Activation, as_activation, relu
from epjax.network.modules import Drive, as_drive

if TYPE_CHECKING:
    from flax import nnx
else:
    from epjax.network import nnx


@dataclass(frozen=True)
class Layer:
    """f_k = phi(a_k) with a_k = drive(h_{k-1}, *[h_s for s in skips]).

    `drive` is any flax module, linen or nnx, that is a function of one example (see `epjax.network.modules`);
    `activation` an `Activation`, or one of the library's by its name or its function (`jax.nn.relu`). `skips` are the
    earlier layers (0 is the input) whose states it takes after h_{k-1}. Raises ValueError for anything else.
    """

    drive: nn.Module | nnx.Module | Drive
    activation: Activation = relu
    skips: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "activation", as_activation(self.activation))
        if not isinstance(self.skips, Sequence) or not all(type(s) is int for s in self.skips):
            raise ValueError(f"skips must be numbers of earlier layers, such as (0, 2), got {self.skips!r}")
        object.__setattr__(self, "skips", tuple(self.skips))
        _ = self.function  # an nnx module is taken as it is now

    @cached_property
    def function(self) -> Drive:
        """The drive as a pure function of its parameters."""
        return as_drive(self.drive)
