"""Any function of parameters and one example as a network: its program, cut at the marks that it sets.

    f(theta, x) = f_L(... f_2(f_1(x)))      f_k between the marks k - 1 and k (see `epjax.network.cut`)

The parameters stay the pytree that the function takes. A parameter that several layers read is one: its gradient is the
sum over them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import jaxpr_as_fun

from epjax.network.architecture import Network, sentence
from epjax.network.arguments import check_example, signature, wide
from epjax.network.cut import Piece, Run, cut
from epjax.network.layer import Layer
from epjax.network.marks import laid_out
from epjax.network.modules import Refused
from epjax.network.precision import Precision, check_precision
from epjax.network.repeat import Repeat, Stacked
from epjax.network.scans import arranged
from epjax.shapes import InputShape, shape_of

Function = Callable[[Any, Array], Array]
"""f(params, x) -> output, of one example."""


@partial(jax.tree_util.register_dataclass, data_fields=["leaves"], meta_fields=[])
@dataclass(frozen=True)
class Theta:
    """The parameters that one layer reads, in the order of the whole."""

    leaves: tuple[Any, ...]


Place = tuple[int, ...]
"""(k,) of a piece, (k, j) of piece j in the unit of the run k."""


@dataclass(frozen=True, eq=False)
class Program:
    """A function of parameters and one example of known shapes, and its pieces for each kind of numbers."""

    f: Function
    name: str
    params: Any
    x: jax.ShapeDtypeStruct

    @cached_property
    def pieces(self) -> tuple[Piece | Run, ...]:
        """The layers, for the dtypes of `params` and `x`. Raises `Refused` for what is no network."""
        return self._traced(self._known, self.x.dtype)

    def at(self, place: Place, theta: Theta, dtype: Any) -> Piece:
        """The layer at `place` for parameters of the dtypes in `theta` and states of `dtype`."""
        piece = _piece(self.pieces, place)
        given = [leaf.dtype for leaf in theta.leaves]
        read = dict(zip(piece.leaves, given, strict=True)) if len(place) == 1 else {}
        traced = [aval.dtype for aval in piece.program.in_avals[: len(given)]]
        now = {self.x.dtype: dtype} | dict(zip(traced, given, strict=True))
        dtypes = [read.get(i, now.get(was, was)) for i, was in enumerate(self._known)]
        return _piece(self._of(dtypes, dtype), place)

    def stacks(self, k: int, leaves: Sequence[Any]) -> list[Any]:
        """What the layers of the run k read, [n, ...] each, of all parameters."""
        known = dict(zip(self._known, (leaf.dtype for leaf in leaves), strict=True))
        run = self._of([leaf.dtype for leaf in leaves], known.get(self.x.dtype, self.x.dtype))[k - 1]
        assert isinstance(run, Run)
        read = [leaves[i] for i in run.leaves]
        f = jaxpr_as_fun(run.program)
        return list(jax.eval_shape(f, *read) if isinstance(leaves[0], jax.ShapeDtypeStruct) else f(*read))

    def _of(self, dtypes: Sequence[Any], dtype: Any) -> tuple[Piece | Run, ...]:
        """The layers for parameters of those dtypes and states of `dtype`."""
        of_x = dtype if self.is_real else self.x.dtype
        context = (getattr(jax.config, f"jax_{name}") for name in ("default_matmul_precision", "enable_x64"))
        kind = (*dtypes, of_x, *context)
        pieces = self._kinds.get(kind) or self._traced(dtypes, of_x)
        if not any(isinstance(v, jax.core.Tracer) for piece in pieces for v in piece.consts):
            self._kinds[kind] = pieces
        real = jnp.finfo(dtype).dtype if jnp.issubdtype(dtype, jnp.inexact) else jnp.float32
        if [piece.place(real) for piece in pieces] != [piece.place(real) for piece in self.pieces]:
            raise Refused(f"is another function in {dtype} than in {self.x.dtype}: trace it with what it is used with")
        return pieces

    @cached_property
    def _known(self) -> list[Any]:
        return [leaf.dtype for leaf in jax.tree.leaves(self.params)]

    @property
    def is_real(self) -> bool:
        """Whether x is no index."""
        return jnp.issubdtype(self.x.dtype, jnp.inexact)

    @cached_property
    def _kinds(self) -> dict[Any, tuple[Piece | Run, ...]]:
        return {}

    def _traced(self, dtypes: Sequence[Any], of_x: Any) -> tuple[Piece | Run, ...]:
        leaves, structure = jax.tree.flatten(self.params)
        given = [jax.ShapeDtypeStruct(v.shape, dtype) for v, dtype in zip(leaves, dtypes, strict=True)]

        def flat(*arguments: Array) -> Array:
            return self.f(jax.tree.unflatten(structure, arguments[:-1]), arguments[-1])

        try:
            program, shape = laid_out(flat, *given, jax.ShapeDtypeStruct(self.x.shape, of_x))
            _check_output(shape)
            return cut(arranged(program))
        except Refused:
            raise
        except Exception as error:
            what = f"one example x, {of_x} {list(self.x.shape)} without a batch axis"
            raise Refused(f"refuses {what}: {sentence(error)}") from error


def _piece(pieces: Sequence[Piece | Run], place: Place) -> Piece:
    k, *inside = place
    piece = pieces[k - 1]
    return piece.unit[inside[0] - 1] if isinstance(piece, Run) else piece


def _check_output(shape: Any) -> None:
    if not isinstance(shape, jax.ShapeDtypeStruct):
        raise Refused(f"gives a {type(shape).__name__}, but must give one array")
    if not jnp.issubdtype(shape.dtype, jnp.inexact):
        raise Refused(f"gives {shape.dtype}, but must give floating numbers")


@dataclass(frozen=True)
class Between:
    """a_k, from the marks below to mark k, as a drive."""

    program: Program
    place: Place

    @property
    def name(self) -> str:
        """The mark's name, or the function's."""
        return _piece(self.program.pieces, self.place).name or self.program.name

    def init(self, key: Array, *inputs: jax.ShapeDtypeStruct) -> Theta:
        """The parameters of this layer as the function was given them."""
        del key, inputs
        leaves = jax.tree.leaves(self.program.params)
        return Theta(tuple(leaves[i] for i in _piece(self.program.pieces, self.place).leaves))

    def apply(self, theta: Theta, *inputs: Array) -> Array:
        """Of the states of its sources; numbers come to where indices are asked for as those."""
        dtype = next((v.dtype for v in inputs if jnp.issubdtype(v.dtype, jnp.inexact)), self.program.x.dtype)
        piece = self.program.at(self.place, theta, dtype)
        arguments = [*theta.leaves, *inputs[: len(piece.sources)]]
        cast = [v.astype(aval.dtype) for v, aval in zip(arguments, piece.program.in_avals, strict=True)]
        a: Array = jaxpr_as_fun(piece.program)(*cast)[0]
        return a


@dataclass(frozen=True, repr=False)
class Unit(Network):
    """What a run repeats: layers fed as the pieces say."""

    pieces: tuple[Piece, ...] = field(kw_only=True)

    def sources(self, k: int) -> tuple[int, ...]:
        """The layers whose states piece k reads; what the unit takes, where it reads none."""
        return self.pieces[k - 1].sources or (0,)


@dataclass(frozen=True, repr=False)
class Traced(Network):
    """A function as a network. Its parameters are those of the function; `draw` makes them from a key."""

    program: Program = field(kw_only=True)
    draw: Callable[[Array], Any] = field(kw_only=True)

    def sources(self, k: int) -> tuple[int, ...]:
        """The layers whose states piece k reads; the input, where it reads none."""
        return self.program.pieces[k - 1].sources or (0,)

    def unit(self, k: int) -> Network | None:
        """What a scan with marks repeats; None of a piece."""
        piece, layer = self.program.pieces[k - 1], self.layers[k - 1]
        if not isinstance(piece, Run) or not isinstance(layer, Repeat):
            return None
        if k not in self._units:
            self._units[k] = Unit(layer.unit, self.precision, pieces=piece.unit)
        return self._units[k]

    def by_layer(self, params: Any) -> tuple[Any, ...]:
        """Every parameter at the first layer that reads it, those of a run stacked; what none reads is nowhere."""
        seen: set[int] = set()
        found: list[Any] = []
        leaves = jax.tree.leaves(params)
        for k, piece in enumerate(self.program.pieces, start=1):
            if isinstance(piece, Run):
                found.append(Stacked(piece.own(self.program.stacks(k, leaves), seen)))
            else:
                found.append(tuple(leaves[i] for i in piece.leaves if i not in seen))
            seen |= set(piece.leaves)
        return tuple(found)

    def spread(self, params: Any) -> tuple[Any, ...]:
        """One `Theta` a layer, a `Stacked` of them a run; of params that are spread already, the same."""
        if is_spread(params):
            return params
        leaves = jax.tree.leaves(params)
        found: list[Theta | Stacked] = []
        for k, piece in enumerate(self.program.pieces, start=1):
            if isinstance(piece, Run):
                stacks = self.program.stacks(k, leaves)
                found.append(Stacked(tuple(Theta(tuple(stacks[i] for i in one.leaves)) for one in piece.unit)))
            else:
                found.append(Theta(tuple(leaves[i] for i in piece.leaves)))
        return tuple(found)

    def init(self, key: Array, input_shape: InputShape) -> Any:
        """The parameters that `from_function` was given, or a model's drawn from `key`.

        Raises ValueError for another `input_shape` than that of the example that was traced.
        """
        params = self.draw(key)
        self.check(params, self.example(input_shape))
        return params

    @property
    def indices(self) -> Any:
        """As it was traced."""
        return None if self.program.is_real else self.program.x.dtype

    def example(self, input_shape: InputShape) -> jax.ShapeDtypeStruct:
        """Of the dtype that was traced; indices as the floating numbers that `as_input` makes of them."""
        x, given = self.program.x, self.program.params
        dtype = x.dtype if self.program.is_real else wide(given)
        return jax.ShapeDtypeStruct(shape_of(input_shape), dtype)

    def check(self, params: Any, x: Array | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        """The output's shape; ValueError for parameters and examples of other shapes than the traced ones."""
        kind = signature(params, x)
        if kind in self._checked:
            return self._checked[kind]
        given, traced = _structure(params), _structure(self.program.params)
        if given != traced:
            raise ValueError(
                f"params must be of the structure that the function was traced with, {traced}, got {given}"
            )
        check_leaves(params)
        for (path, was), leaf in zip(_places(self.program.params), jax.tree.leaves(params), strict=True):
            if was.shape != leaf.shape:
                where, shapes = f"params{jax.tree_util.keystr(path)}", f"{list(was.shape)}, got {list(leaf.shape)}"
                raise ValueError(f"{where} must be of the shape that the function was traced with, {shapes}")
        if x.shape != self.program.x.shape:
            allowed = f"of the shape that the function was traced with, {list(self.program.x.shape)}"
            raise ValueError(f"one example of x must be {allowed}, got {list(x.shape)}")
        h = [jax.ShapeDtypeStruct(x.shape, x.dtype)]
        for k, theta in enumerate(self.spread(params), start=1):
            inputs = [h[j] for j in self.sources(k)]
            with self._named(k, inputs):
                h.append(self._shape(theta, k, *inputs))
        self._checked[kind] = h[-1]
        return h[-1]


def from_function(f: Function, params: Any, x: Any, *, precision: Precision = "float32") -> Network:
    """f(params, x) = f_L(... f_1(x)) as a network: f is traced for ONE example x and cut where it calls `epjax.state`.

    * What lies between two marks is f_k, the output is h_L. A function without marks is one layer.
    * A state from further below, x too, is a skip. A parameter that several layers read is one, its gradient the sum. A
      value that crosses a mark without being one is computed again from the marks below it.
    * relu, relu6, hard_tanh, a clip, or a maximum with a number right before a mark is the layer's projection, also
      where max-pooling or a reshape stands between.
    * A `jax.lax.scan` of a state over stacked parameters is a `Repeat` (see `epjax.network.scans`), another scan with
      marks is unrolled; `jax.jit` and `jax.checkpoint` with marks are written out.

    params is any pytree of floating arrays, and stays what it is: `value_and_grad`, `ep_loss` and the rest take it and
    give gradients of that structure, zero for what no layer reads. x [...] is an example without a batch axis, or its
    shape and dtype; integers are taken as indices, such as tokens. f must be pure: of its arguments, and of constants.
    Raises ValueError for random numbers, effects, marks in a while loop, a branch or a function with a derivative of
    its own, and for what gives no array of floating numbers.
    """
    if not callable(f) or isinstance(f, type):
        raise ValueError(f"f must be a function of parameters and one example, got {f!r}")
    check_leaves(params)
    name = getattr(f, "__name__", type(f).__name__)
    return network_of(f, name, params, as_example(x), lambda key: params, precision)


def network_of(
    f: Function, name: str, params: Any, x: jax.ShapeDtypeStruct, draw: Callable[[Array], Any], precision: Precision
) -> Network:
    """f as a network; params may be shapes."""
    check_precision(precision)
    program = Program(f, name, params, x)
    try:
        layers = [_layer(program, k, piece) for k, piece in enumerate(program.pieces, start=1)]
    except Refused as error:
        raise ValueError(f"f ({name}) {error}") from error.__cause__
    return Traced(tuple(layers), precision, program=program, draw=draw)


def _layer(program: Program, k: int, piece: Piece | Run) -> Layer | Repeat:
    if isinstance(piece, Piece):
        return Layer(Between(program, (k,)), piece.activation)
    unit = (Layer(Between(program, (k, j)), one.activation) for j, one in enumerate(piece.unit, start=1))
    return Repeat(tuple(unit), piece.n, piece.checkpoint)


def is_spread(params: Any) -> bool:
    """Whether parameters are one `Theta` a layer: the output's is no run."""
    return isinstance(params, tuple) and any(isinstance(theta, Theta) for theta in params)


def as_example(x: Any) -> jax.ShapeDtypeStruct:
    """The kind of one example. Raises ValueError for what is no array of real numbers or indices."""
    if hasattr(x, "dtype") and (jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == bool):
        return jax.ShapeDtypeStruct(x.shape, x.dtype)
    check_example(x)
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def check_leaves(params: Any) -> None:
    """Raises ValueError unless params is a pytree of floating arrays."""
    for path, leaf in _places(params):
        if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape") or not jnp.issubdtype(leaf.dtype, jnp.inexact):
            what = f"{leaf.dtype}" if hasattr(leaf, "dtype") else f"a {type(leaf).__name__}"
            where = jax.tree_util.keystr(path)
            allowed = "a pytree of floating arrays, and what is none a constant of f"
            raise ValueError(f"params must be {allowed}, got {what} at params{where}")


def _places(tree: Any) -> list[Any]:
    """(path, leaf) of every leaf."""
    return jax.tree_util.tree_leaves_with_path(tree)


def _structure(tree: Any) -> str:
    return str(jax.tree.structure(tree))
