"""Networks: layers and runs of equal layers, skip connections, the free phase. Layers count from 1; h_0 = x."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from epjax.network.activation import Activation
from epjax.network.arguments import (
    as_state,
    check_indices,
    check_parameters,
    check_parameters_of,
    one_example,
    signature,
    wide,
)
from epjax.network.layer import Layer
from epjax.network.modules import Refused, number_of_indices, takes_indices
from epjax.network.precision import Precision, at_precision, check_precision
from epjax.network.repeat import Repeat, Stacked, layers_of
from epjax.network.summary import Row, count, flops, table
from epjax.network.ties import Tie, own, refuse_shared_with_runs, spread, ties
from epjax.shapes import InputShape, is_known, shape_of

Params = tuple[Any, ...]
"""One pytree of parameters a layer, float32 unless the caller casts it; of a `Repeat` a `Stacked` one."""


States = tuple[Any, ...]
"""(h_1, ..., h_L) of one example: an array each, of a `Repeat` a `Stacked` of arrays."""


@dataclass(frozen=True)
class Network:
    """A predictive coding network: f_k = phi_k(drive_k(theta_k, h_{k-1}, skips)), k = 1..L.

    `precision` is that of the products in every drive (see `epjax.network.precision`). A flax module, or an nnx
    parameter, that stands in several layers is one: `ties` names the places, and the parameters hold it once, at the
    first (see `epjax.network.ties`). A `Repeat` stands for all layers of its run and counts as one. Raises ValueError
    for an empty network, what is no `Layer` or `Repeat`, a `Repeat` at the end, a skip that does not come from an
    earlier layer, parts of a module that cannot be tied, or an unknown precision.
    """

    layers: tuple[Layer | Repeat, ...]
    precision: Precision = "float32"
    ties: tuple[Tie, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_precision(self.precision)
        object.__setattr__(self, "layers", _layers(self.layers))
        for k, layer in enumerate(self.layers, start=1):
            if any(not 0 <= s <= k - 2 for s in layer.skips):
                raise ValueError(f"skips of layer {k} must lie in 0..{k - 2}, got {layer.skips}")
        units = [layers_of(layer) for layer in self.layers]
        runs = [k for k, layer in enumerate(self.layers, start=1) if isinstance(layer, Repeat)]
        refuse_shared_with_runs([[layer.function for layer in unit] for unit in units], runs)
        object.__setattr__(self, "ties", ties([layer.function for layer in self.layers]))

    def __len__(self) -> int:
        """L, the number of layers; a run of equal layers is one."""
        return len(self.layers)

    @property
    def depth(self) -> int:
        """The number of layers, those of a run counted by themselves."""
        return self.number(len(self) + 1) - 1

    def number(self, k: int) -> int:
        """Which layer the first of entry k is, those of a run counted by themselves."""
        return 1 + sum(layer.depth if isinstance(layer, Repeat) else 1 for layer in self.layers[: k - 1])

    def unit(self, k: int) -> "Network | None":
        """What entry k repeats, as a network of its own; None of a layer."""
        if k not in self._units:
            layer = self.layers[k - 1]
            self._units[k] = Network(layer.unit, self.precision) if isinstance(layer, Repeat) else None
        return self._units[k]

    def __repr__(self) -> str:
        layers = ", ".join(self._brief(k) for k in range(1, len(self) + 1))
        return f"Network of {self.depth} layers, {self.precision}: {layers}"

    def summary(self, input_shape: InputShape) -> str:
        """A table of the layers for one input of `input_shape`: shapes, parameters, FLOPs of a forward pass.

        Raises ValueError as `init` does.
        """
        params = jax.eval_shape(lambda key: self.init(key, input_shape), jax.random.key(0))
        h, rows = [self.example(input_shape)], []
        for k, (layer, theta) in enumerate(zip(self.layers, self.spread(params), strict=True), start=1):
            inputs = [h[j] for j in self.sources(k)]
            h.append(self._shape(theta, k, *inputs))
            name, held = layer.function.name, count(self.by_layer(params)[k - 1])
            work = self._work(theta, k, *inputs)
            rows.append(Row(name, layer.activation.name, self.sources(k), h[-1].shape, held, work))
        return table(f"{self.depth} layers, products in {self.precision}", shape_of(input_shape), rows)

    def _work(self, theta_k: Any, k: int, *inputs: jax.ShapeDtypeStruct) -> float:
        """FLOPs of entry k; XLA counts what is in a loop once."""
        layer, unit = self.layers[k - 1], self.unit(k)
        if unit is None or not isinstance(layer, Repeat):
            return flops(lambda theta, inputs: self.predict(theta, k, *inputs), theta_k, inputs)
        one = jax.eval_shape(lambda theta: theta.unit(0), theta_k)
        return layer.n * flops(lambda theta, inputs: unit.output_of(theta, *inputs), one, inputs)

    def sources(self, k: int) -> tuple[int, ...]:
        """The layers that feed layer k: k - 1, then its skips; 0 is the input."""
        return (k - 1, *self.layers[k - 1].skips)

    def targets(self, k: int) -> tuple[int, ...]:
        """The layers that layer k feeds."""
        return tuple(j for j in range(k + 1, len(self) + 1) if k in self.sources(j))

    def activation(self, k: int) -> Activation:
        """phi_k."""
        return self.layers[k - 1].activation

    def init(self, key: Array, input_shape: InputShape) -> Params:
        """theta = (theta_1, ..., theta_L), drawn from `key` for one input of `input_shape` (no batch axis).

        An nnx module gives the parameters that it holds. Raises ValueError, before anything is compiled, naming the
        layer whose module refuses what the layer below gives it, mixes examples, draws random numbers or keeps state.
        """
        x = self.example(input_shape)
        params, output = self._drawn(key, 1, x)
        self._checked[signature(params, x)] = output
        return params

    def _drawn(self, key: Array, first: int | Array, x: jax.ShapeDtypeStruct) -> tuple[Params, jax.ShapeDtypeStruct]:
        """Parameters for an input x, and the output's shape; the first layer is number `first` of those that draw."""
        params: Params = ()
        h = [x]
        for k in range(1, len(self) + 1):
            inputs = [h[j] for j in self.sources(k)]
            with self._named(k, inputs):
                theta = self._drawn_entry(key, k, first + (self.number(k) - 1), self._given(k, inputs))
                params = (*params, own(self.ties, k, theta))
                h.append(self._shape(self.spread(params)[-1], k, *inputs))
                self._check_repeats(k, inputs[0], h[-1])
            if 0 in h[-1].shape:
                raise ValueError(f"input_shape {tuple(x.shape)} is too small: layer {k} gives shape {h[-1].shape}")
        return params, h[-1]

    def _drawn_entry(self, key: Array, k: int, number: int | Array, inputs: list[jax.ShapeDtypeStruct]) -> Any:
        """The parameters of entry k; those of a run are what its layers would draw one by one."""
        layer, unit = self.layers[k - 1], self.unit(k)
        if unit is None or not isinstance(layer, Repeat):
            return layer.function.init(jax.random.fold_in(key, number), *inputs)
        firsts = number + len(unit) * jnp.arange(layer.n)
        return Stacked(jax.jit(jax.vmap(lambda first: unit._drawn(key, first, inputs[0])[0]))(firsts))

    def _check_repeats(self, k: int, x: jax.ShapeDtypeStruct, y: jax.ShapeDtypeStruct) -> None:
        if self.unit(k) is not None and (x.shape, x.dtype) != (y.shape, y.dtype):
            was, now = f"{x.dtype} {list(x.shape)}", f"{y.dtype} {list(y.shape)}"
            raise Refused(f"must give what it takes, for it is repeated: it takes {was} and gives {now}")

    def check(self, params: Params, x: Array | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        """The output's shape; ValueError for what `init` refuses and for parameters that are not as it gives them.

        x [...] is ONE example; only shapes and dtypes are looked at, once for each kind of them.
        """
        kind = signature(params, x)
        if kind in self._checked:
            return self._checked[kind]
        check_parameters(params, len(self))
        spread = self.spread(params)
        key = jax.eval_shape(lambda: jax.random.key(0))
        h = [jax.ShapeDtypeStruct(x.shape, x.dtype)]
        for k in range(1, len(self) + 1):
            inputs = [h[j] for j in self.sources(k)]
            with self._named(k, inputs):
                drawn = self._given(k, [jax.ShapeDtypeStruct(v.shape, jnp.float32) for v in inputs])  # as in `init`
                expected = jax.eval_shape(lambda key, k=k, drawn=drawn: self._drawn_entry(key, k, 1, drawn), key)
                check_parameters_of(expected, spread[k - 1])
                h.append(self._shape(spread[k - 1], k, *inputs))
                self._check_repeats(k, inputs[0], h[-1])
            if 0 in h[-1].shape:
                raise ValueError(f"x {x.shape} is too small: layer {k} gives shape {h[-1].shape}")
        self._checked[kind] = h[-1]
        return h[-1]

    def example(self, input_shape: InputShape) -> jax.ShapeDtypeStruct:
        """The kind of one input of that shape: float32, in which indices stand as well.

        Raises ValueError for an example that holds indices, where the first layer takes none.
        """
        dtype = getattr(input_shape, "dtype", jnp.float32)
        if self.indices is None and jnp.issubdtype(dtype, jnp.integer):
            raise ValueError(
                f"input_shape must be an example of real numbers, got {dtype}: indices need an Embed first"
            )
        return jax.ShapeDtypeStruct(shape_of(input_shape), jnp.float32)

    def by_layer(self, params: Params) -> Params:
        """One entry a layer, each parameter once."""
        return params

    @property
    def indices(self) -> Any:
        """The dtype of the indices that an input holds, such as tokens; None where it holds real numbers."""
        return jnp.int32 if takes_indices(self.layers[0].function) else None

    def as_input(self, params: Params, x: Any) -> Any:
        """Indices as whole floating numbers, where the network takes indices; else x itself."""
        if self.indices is None or not hasattr(x, "dtype"):
            return x
        floating = jnp.issubdtype(x.dtype, jnp.inexact)
        if floating and is_known(x) and not np.all(np.asarray(x) == np.round(np.asarray(x))):
            raise ValueError(f"x must hold indices, whole numbers, got {x.dtype} with fractions")
        check_indices(x, number_of_indices(self.layers[0].function))
        if floating:
            return x
        dtype = wide(params)
        largest = 2 ** (jnp.finfo(dtype).nmant + 1)
        if is_known(x) and x.size and max(abs(int(np.max(x))), abs(int(np.min(x)))) > largest:
            raise ValueError(f"x must hold indices up to {largest} in {dtype}, got {int(np.max(np.abs(x)))}")
        return jnp.asarray(x).astype(dtype)

    def spread(self, params: Params) -> Params:
        """The parameters with what layers share in all of its places; of params that have it already, the same."""
        return spread(self.ties, params)

    def first_time(self, what: str) -> bool:
        """Whether this is asked for the first time: a warning is given once."""
        seen = what in self._told
        self._told.add(what)
        return not seen

    @cached_property
    def _checked(self) -> dict[Any, jax.ShapeDtypeStruct]:
        """The kinds of parameters and input that were found sound, with the output's shape."""
        return {}

    @cached_property
    def _units(self) -> dict[int, "Network | None"]:
        return {}

    @cached_property
    def _told(self) -> set[str]:
        return set()

    def _brief(self, k: int) -> str:
        layer, others = self.layers[k - 1], [str(j) for j in self.sources(k) if j != k - 1]
        skips = f" + {', '.join(others)}" if others else ""
        return f"{layer.function.name} {layer.activation.name}{skips}"

    def _given(self, k: int, inputs: Sequence[jax.ShapeDtypeStruct]) -> list[jax.ShapeDtypeStruct]:
        """What the module of layer k is given: indices in their own dtype."""
        indices, sources = self.indices, self.sources(k)
        return [
            jax.ShapeDtypeStruct(v.shape, indices) if j == 0 and indices is not None else v
            for j, v in zip(sources, inputs, strict=True)
        ]

    def _shape(self, theta_k: Any, k: int, *inputs: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        unit = self.unit(k)

        def output(theta_k: Any, *inputs: Array) -> Array:
            if unit is None:
                return self.predict(theta_k, k, *inputs)
            return unit.output_of(theta_k.unit(0), *inputs)  # the others give the same, or `_check_repeats` says so

        shape: jax.ShapeDtypeStruct = jax.eval_shape(output, theta_k, *inputs)
        return shape

    @contextmanager
    def _named(self, k: int, inputs: Sequence[jax.ShapeDtypeStruct]) -> Iterator[None]:
        """What goes wrong within is said of layer k."""
        layer = f"layer {k} ({self.layers[k - 1].function.name})"
        try:
            yield
        except Refused as error:
            raise ValueError(f"{layer} {error}") from None
        except Exception as error:
            shapes = " and ".join(f"{v.shape} of {_source(j)}" for j, v in zip(self.sources(k), inputs, strict=True))
            raise ValueError(f"{layer} refuses {shapes}: {sentence(error)}") from error

    def drive(self, theta_k: Any, k: int, *inputs: Array) -> Array:
        """a_k = drive_k(theta_k, h_{k-1} [, skip inputs]) of one example, in the dtype of the states.

        Indices are not rounded to the precision of products.
        """
        if self.unit(k) is not None:
            raise ValueError(f"layer {k} is a run of equal layers and has no drive: epjax.network.unrolled gives them")
        function, sources = self.layers[k - 1].function, self.sources(k)
        if self.indices is None or 0 not in sources:
            return as_state(at_precision(self.precision, function.apply, theta_k, *inputs), inputs[0].dtype)
        at = sources.index(0)
        x = jnp.real(inputs[at]).astype(self.indices)

        def apply(theta: Any, *others: Array) -> Array:
            return function.apply(theta, *others[:at], x, *others[at:])

        others = inputs[:at] + inputs[at + 1 :]
        rounds = jax.tree.leaves((theta_k, others))
        a = at_precision(self.precision, apply, theta_k, *others) if rounds else apply(theta_k)
        return as_state(a, inputs[0].dtype)

    def predict(self, theta_k: Any, k: int, *inputs: Array) -> Array:
        """f_k = phi_k(a_k) of one example; of a `Repeat` what its last layer gives."""
        if self.unit(k) is not None:
            return self.through(theta_k, k, inputs[0])[0]
        return self.activation(k)(self.drive(theta_k, k, *inputs))

    def through(self, theta_k: Stacked, k: int, h: Array, *, keep: bool = False) -> tuple[Array, Any]:
        """h through the run of entry k: what its last layer gives, and with `keep` the states of all of them."""
        unit, layer = self.unit(k), self.layers[k - 1]
        assert unit is not None
        assert isinstance(layer, Repeat)

        def step(h: Array, theta: Params) -> tuple[Array, Any]:
            output, states = unit.passed(theta, h, keep=keep)
            return output, states if keep else None

        output, states = lax.scan(layer.kept(step), h, theta_k.units)
        return output, Stacked(states) if keep else None

    def passed(self, params: Params, x: Array, *, keep: bool) -> tuple[Array, States]:
        """A forward pass of parameters that are known to fit: the output, and with `keep` the state of every layer."""
        params, outputs, states = self.spread(params), [x], []
        for k in range(1, len(self) + 1):
            inputs = [outputs[j] for j in self.sources(k)]
            if self.unit(k) is None:
                output = state = self.predict(params[k - 1], k, *inputs)
            else:
                output, state = self.through(params[k - 1], k, inputs[0], keep=keep)
            outputs.append(output)
            states.append(state)
        return outputs[-1], tuple(states) if keep else ()

    def output_of(self, params: Params, x: Array) -> Array:
        """h_L of ONE example, of parameters that are known to fit."""
        return self.passed(params, x, keep=False)[0]

    def output(self, params: Params, x: Array) -> Array:
        """h_L of ONE example; vmap for a batch. Raises ValueError as `forward` does."""
        x = one_example(self.check, params, self.as_input(params, x))
        return self.output_of(params, x)

    def forward(self, params: Params, x: Array) -> States:
        """The free phase, h_k = f_k(h_{k-1}) for k = 1..L: every state of ONE example; vmap for a batch.

        Those of a `Repeat` are a `Stacked`. Raises ValueError as `check` does, and for a batch where one example is
        meant.
        """
        x = one_example(self.check, params, self.as_input(params, x))
        return self.passed(params, x, keep=True)[1]


def _layers(given: Any) -> tuple[Layer, ...]:
    """The layers as a tuple."""
    if isinstance(given, Layer) or not isinstance(given, Sequence):
        raise ValueError(f"layers must be a tuple of Layers, got {type(given).__name__}")
    if not given:
        raise ValueError("layers must hold at least one Layer, got none")
    for i, layer in enumerate(given):
        if not isinstance(layer, Layer | Repeat):
            what = type(layer).__name__
            raise ValueError(f"layers[{i}] must be a Layer, got {what}: epjax.from_flax takes modules and functions")
    if isinstance(given[-1], Repeat):
        raise ValueError(f"layers must end with a Layer, the output, got a Repeat of {given[-1].n}")
    return tuple(given)


def _source(j: int) -> str:
    return f"layer {j}" if j else "the input"


def sentence(error: Exception) -> str:
    """The first line: flax and jax explain at length."""
    return str(error).strip().split("\n")[0] or type(error).__name__
