"""Equal layers in a row, held and computed as one: parameters, states and errors stacked, passes in a `lax.scan`.

    h_i = f(theta_i, h_{i-1})      i = 1..n,    theta = (theta_1, ..., theta_n) on a leading axis [n, ...]

A program holds the layer once, whatever n is. Where every layer has to stand by itself, `epjax.network.unrolled` makes
the network of single layers, which computes the same from the same parameters.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from epjax.network.activation import Activation, identity
from epjax.network.layer import Layer
from epjax.network.modules import NNX, BatchOfOne, Drive, Joined


@partial(jax.tree_util.register_dataclass, data_fields=["units"], meta_fields=[])
@dataclass(frozen=True)
class Stacked:
    """Parameters, states or errors of a run: one entry for each layer of its unit, every array [n, ...]."""

    units: tuple[Any, ...]

    def unit(self, i: int) -> tuple[Any, ...]:
        """Those of the unit i, counted from 0."""
        found: tuple[Any, ...] = jax.tree.map(lambda v: v[i], self.units)
        return found

    def laid_out(self) -> list[tuple[Any, ...]]:
        """Those of every unit, by itself."""
        leaves, structure = jax.tree.flatten(self.units)
        rows = [lax.split(v, (1,) * len(v)) for v in leaves]  # its transpose is one concatenation
        return [jax.tree.unflatten(structure, [v[0] for v in row]) for row in zip(*rows, strict=True)]


@dataclass(frozen=True)
class Repeat:
    """n equal layers in a row, each with parameters of its own: h_i = f(theta_i, h_{i-1}).

    `layer` is what is repeated: a `Layer`, or a tuple of them such as attention and MLP, n times in that order. What it
    gives has the shape of what it takes. Skips within such a tuple count from its first layer, 0 being what it takes;
    none come from outside. In a `Network` it is one entry: its parameters are a `Stacked` of arrays [n, ...], as drawn
    by n single layers, and so are its states and errors.

    `checkpoint` is what a pass up keeps of each layer for the pass down, in backpropagation and in both phases: False,
    all that its derivative needs; True, its input and what it gives, the rest being computed once more; a policy of
    `jax.checkpoint_policies`, what that says. The numbers are the same for the same `pulls` of a sweep: shared ones are
    kept, and by default each phase has its own where a `checkpoint` is asked for.

    Raises ValueError for n < 1, for what is no `Layer`, for a skip from outside, for nnx modules, whose parameters are
    not drawn, and for another checkpoint.
    """

    layer: Layer | tuple[Layer, ...]
    n: int
    checkpoint: bool | Callable[..., Any] = False

    skips: ClassVar[tuple[int, ...]] = ()
    activation: ClassVar[Activation] = identity
    """The unit's own activations are inside."""

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or not isinstance(self.n, int) or self.n < 1:
            raise ValueError(f"n must be a whole number of layers, at least 1, got {self.n!r}")
        if not isinstance(self.checkpoint, bool) and not callable(self.checkpoint):
            allowed = "True, False or a policy, such as jax.checkpoint_policies.dots_saveable"
            raise ValueError(f"checkpoint must be {allowed}, got {self.checkpoint!r}")
        if not isinstance(self.layer, Layer | Sequence) or not self.unit:
            raise ValueError(f"layer must be a Layer or a tuple of Layers, got {self.layer!r}")
        for place, layer in enumerate(self.unit):
            if not isinstance(layer, Layer):
                raise ValueError(f"layer must be a Layer or a tuple of Layers, got a {type(layer).__name__} in it")
            if any(not 0 <= s < place for s in layer.skips):
                allowed = f"0..{place - 1}, layers of the repeated unit" if place else "none in the first layer"
                raise ValueError(f"skips of a repeated layer must be {allowed}, got {layer.skips}")
            if _is_nnx(layer.function):
                name = layer.function.name
                raise ValueError(f"layer must be of linen modules, which draw parameters for each, got nnx's {name}")

    @cached_property
    def unit(self) -> tuple[Layer, ...]:
        """The layers that are repeated."""
        return (self.layer,) if isinstance(self.layer, Layer) else tuple(self.layer)

    def kept(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """A function f that keeps for its derivative what `checkpoint` says."""
        if self.checkpoint is False:
            return f
        policy = None if self.checkpoint is True else self.checkpoint
        kept: Callable[..., Any] = jax.checkpoint(f, policy=policy, prevent_cse=False)  # it stands in a loop
        return kept

    @property
    def depth(self) -> int:
        """How many layers it stands for."""
        return self.n * len(self.unit)

    @cached_property
    def function(self) -> Drive:
        """What errors and tables call it."""
        return Alone(self.unit[0].function, f"{self.n} x {' + '.join(layer.function.name for layer in self.unit)}")


def layers_of(entry: Layer | Repeat) -> tuple[Layer, ...]:
    """The layers of a unit; a layer by itself."""
    return entry.unit if isinstance(entry, Repeat) else (entry,)


@dataclass(frozen=True)
class Alone:
    """A drive with parameters of its own, whatever else is made of its module."""

    drive: Drive
    name: str

    def init(self, key: Array, *inputs: jax.ShapeDtypeStruct) -> Any:
        """The drive's theta."""
        return self.drive.init(key, *inputs)

    def apply(self, theta: Any, *inputs: Array) -> Array:
        """As the drive computes it."""
        return self.drive.apply(theta, *inputs)


def output_of(state: Any, axis: int = 0) -> Array:
    """What a layer gives to those above: its state, or that of the last layer of a run, stacked along `axis`."""
    if not isinstance(state, Stacked):
        return state  # type: ignore[no-any-return]
    return lax.index_in_dim(state.units[-1], -1, axis, keepdims=False)


def of_each(f: Callable[..., Array], *states: Sequence[Any]) -> Array:
    """[L] f(h_k, ...), a number [] of each layer, those of a run by themselves and in their order."""
    found: list[Array] = []
    for entry in zip(*states, strict=True):
        if isinstance(entry[0], Stacked):
            columns = [jax.vmap(f)(*layer) for layer in zip(*(e.units for e in entry), strict=True)]
            found.append(jnp.stack(columns, axis=1).ravel())
        else:
            found.append(f(*entry)[None])
    return jnp.concatenate(found)


def _is_nnx(drive: Drive) -> bool:
    match drive:
        case Joined(drive=inner) | BatchOfOne(module=inner):
            return _is_nnx(inner)
    return isinstance(drive, NNX)
