"""Flax modules, linen and nnx, as drives: functions of ONE example, applied as flax means them, to a batch.

A module sees a batch of one, h[None], and its result loses that axis again, so that what was written for batches
[B, ...] computes what it computes anywhere else: GroupNorm normalises an example, `x.reshape((x.shape[0], -1))`
flattens one. A module that looks beyond its example, draws random numbers or changes when it is called is no
function f_k of the state below: it has no energy, and is refused.

What a module keeps and never changes, such as the statistics of a BatchNorm in evaluation, is a part of the function.
An nnx module brings it along; a linen module does once it is bound: `module.bind({"params": ..., "batch_stats": ...})`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import flax.core
import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from epjax.network.drive import OneExample

if TYPE_CHECKING:
    from flax import nnx
else:
    from epjax.network import nnx

Function = Callable[[Array], Array]
"""A function of a batch without parameters, such as flattening or pooling."""


class Drive(Protocol):
    """a = apply(theta, h, *skips), a pure function."""

    @property
    def name(self) -> str:
        """What errors call it."""
        ...

    def init(self, key: Array, *inputs: jax.ShapeDtypeStruct) -> Any:
        """Theta for inputs of these shapes. Raises `Refused` where there is no such function."""
        ...

    def apply(self, theta: Any, *inputs: Array) -> Array:
        """What it computes."""
        ...


class Refused(ValueError):
    """Why a module cannot be a drive; a sentence without its subject."""


def mixes(where: str) -> Refused:
    """BatchNorm and its like."""
    return Refused(
        f"mixes the examples of a batch ({where}), so that F is no sum over examples: use GroupNorm or LayerNorm, or "
        f"an nnx module that was told to eval(), or use_running_average=True and a bound linen module"
    )


def draws(where: str) -> Refused:
    """Dropout and its like."""
    return Refused(
        f"draws random numbers ({where}), so that free and nudged phase would see two networks: "
        f"make it deterministic or leave it out"
    )


def keeps_state(where: str) -> Refused:
    """Caches, running averages, sown values."""
    return Refused(f"keeps mutable state ({where}): a drive must be a function of its input and its parameters alone")


def unbound(where: str) -> Refused:
    """A linen module whose running averages stayed behind."""
    return Refused(
        f"needs {where}, which is no parameter: give the module with its variables, "
        f"module.bind({{'params': ..., '{where.split('/')[0]}': ...}})"
    )


@dataclass(frozen=True, eq=False)
class Kept:
    """A bound linen module and the collections beside its `params`: what it reads and never writes."""

    of: nn.Module
    variables: Mapping[str, Any]


@dataclass(frozen=True)
class Linen:
    """A linen module; theta is its `params` collection."""

    module: nn.Module
    kept: Kept | None = None

    @classmethod
    def of(cls, module: nn.Module) -> "Linen":
        """Of a module, or of a bound one with what it holds beside its parameters."""
        if module.scope is None:
            return cls(module)
        free, variables = module.unbind()
        return cls(free, Kept(module, {name: held for name, held in variables.items() if name != "params"}))

    @property
    def name(self) -> str:
        """The module's class."""
        return type(self.module).__name__

    def init(self, key: Array, *inputs: jax.ShapeDtypeStruct) -> Any:
        """Theta drawn from `key`."""
        variables = self.module.lazy_init(key, *inputs)
        theta = variables.get("params", {})
        beside = {name: held for name, held in variables.items() if name != "params"}
        jax.eval_shape(self._refuse_change, {"params": theta, **beside}, *inputs)
        kept = {} if self.kept is None else self.kept.variables
        for path in _paths(beside):
            if path not in _paths(kept):
                raise unbound("/".join(path))
        return theta

    def apply(self, theta: Any, *inputs: Array) -> Array:
        """Without random numbers, and without a change of what it keeps."""
        kept = {} if self.kept is None else self.kept.variables
        a = self.module.apply({"params": theta, **kept}, *inputs)
        return a  # type: ignore[return-value]

    def _refuse_change(self, variables: Any, *inputs: Array) -> None:
        may_change = flax.core.DenyList(("params", "intermediates"))
        try:
            _, after = self.module.apply(variables, *inputs, mutable=may_change)
        except flax.errors.InvalidRngError as error:
            raise draws(str(error).split(" needs ")[0]) from None
        before = _paths(variables)
        for path, leaf in _paths(after).items():
            if before.get(path) is not leaf:
                where = "/".join(path)
                raise mixes(where) if path[0] == "batch_stats" else keeps_state(where)


class NNX:
    """An nnx module; theta is the `nnx.State` of its `nnx.Param`: `nnx.update(module, theta)` writes it back."""

    def __init__(self, module: nnx.Module) -> None:
        """The module as it is now: what happens to it later changes nothing here."""
        self.name = type(module).__name__
        self.takes_indices = isinstance(module, nnx.Embed) or bool(getattr(module, "takes_indices", False))
        self.indices = _number_of_indices(module)
        self.held: dict[tuple[Any, ...], Any] = dict(nnx.to_flat_state(nnx.state(module, nnx.Param)))
        """The module's own parameter objects, to be told from those of other layers."""
        parts: Any = nnx.split(nnx.clone(module), nnx.Param, ...)
        self.graph, self._params, self._rest = parts

    def init(self, key: Array, *inputs: jax.ShapeDtypeStruct) -> Any:
        """Theta as the module held it, pretrained or drawn by the `rngs` it was built with; `key` is not used."""
        del key
        jax.eval_shape(self._refuse_change, *inputs)
        return jax.tree.map(jnp.copy, self._params)

    def apply(self, theta: Any, *inputs: Array) -> Array:
        """What is no parameter, such as the statistics of a BatchNorm in evaluation, stays as it was."""
        return self._call(theta, *inputs)[0]

    def module(self, theta: Any) -> Any:
        """A copy of the module with these parameters."""
        return nnx.merge(self.graph, theta, self._rest, copy=True)

    def _call(self, theta: Any, *inputs: Array) -> tuple[Array, Any]:
        module = self.module(theta)
        a = module(*inputs)
        parts: Any = nnx.split(module, nnx.Param, ...)
        return a, parts[2]

    def _refuse_change(self, *inputs: Array) -> Array:
        a, after = self._call(self._params, *inputs)
        before = dict(nnx.to_flat_state(self._rest))
        for path, variable in nnx.to_flat_state(after):
            if path in before and before[path].get_value() is variable.get_value():
                continue
            where = "/".join(map(str, path))
            if isinstance(variable, nnx.RngState):
                raise draws(where)
            raise mixes(where) if isinstance(variable, nnx.BatchStat) else keeps_state(where)
        return a


@dataclass(frozen=True)
class Plain:
    """Functions without a module: no parameters, a = h."""

    name: str = "no module"

    def init(self, key: Array, *inputs: jax.ShapeDtypeStruct) -> Any:
        """No parameters."""
        del key, inputs
        return {}

    def apply(self, theta: Any, *inputs: Array) -> Array:
        """H itself."""
        del theta
        return inputs[0]


@dataclass(frozen=True)
class BatchOfOne:
    """a = module(h[None], *skips[None])[0]: a module for batches as a drive of one example."""

    module: Drive

    @property
    def name(self) -> str:
        """The module's class."""
        return self.module.name

    def init(self, key: Array, *inputs: jax.ShapeDtypeStruct) -> Any:
        """The module's theta."""
        return self.module.init(key, *(jax.ShapeDtypeStruct((1, *v.shape), v.dtype) for v in inputs))

    def apply(self, theta: Any, *inputs: Array) -> Array:
        """Of one example."""
        return _only(self.module.apply(theta, *(v[None] for v in inputs)))


@dataclass(frozen=True)
class Joined:
    """a = after(drive(before(h), *skips)): a drive with functions of a batch on both sides, given a batch of one."""

    drive: Drive
    before: tuple[Function, ...] = ()
    after: tuple[Function, ...] = ()

    @property
    def name(self) -> str:
        """The drive's name."""
        return self.drive.name

    def init(self, key: Array, *inputs: jax.ShapeDtypeStruct) -> Any:
        """The drive's theta."""
        h, *skips = inputs
        return self.drive.init(key, jax.eval_shape(partial(_through, self.before), h), *skips)

    def apply(self, theta: Any, *inputs: Array) -> Array:
        """Of one example."""
        h, *skips = inputs
        return _through(self.after, self.drive.apply(theta, _through(self.before, h), *skips))

    def then(self, function: Function) -> "Joined":
        """With one more function after it."""
        return replace(self, after=(*self.after, function))


def _through(functions: tuple[Function, ...], h: Array) -> Array:
    for function in functions:
        h = _only(function(h[None]))
    return h


def _only(batch: Any) -> Array:
    """The one example of a batch."""
    if not isinstance(batch, Array):
        raise Refused(f"gives a {type(batch).__name__}, but must give one array")
    if batch.shape[:1] != (1,):
        raise Refused(f"gives {batch.shape} for a batch of one example: the batch must stay the first axis")
    return batch[0]


def as_drive(module: Any) -> Drive:
    """A drive of one example: flax modules see a batch of one, `OneExample` and other drives are taken as they are.

    Raises ValueError for anything else.
    """
    if isinstance(module, OneExample):
        return Linen.of(module)
    if isinstance(module, nn.Module):
        return BatchOfOne(Linen.of(module))
    if isinstance(module, nnx.Module):
        return BatchOfOne(NNX(module))
    if callable(getattr(module, "init", None)) and callable(getattr(module, "apply", None)):
        return module  # type: ignore[no-any-return]
    raise ValueError(f"drive must be a flax module (linen or nnx), got {module!r}")


def takes_indices(drive: Drive) -> bool:
    """Whether its input holds indices, such as tokens: an Embed of flax, or a module with ``takes_indices = True``."""
    match drive:
        case Joined(drive=inner) | BatchOfOne(module=inner):
            return takes_indices(inner)
        case Linen(module=module):
            return isinstance(module, nn.Embed) or bool(getattr(module, "takes_indices", False))
        case NNX(takes_indices=known):
            return known
    return False


def number_of_indices(drive: Drive) -> int | None:
    """How many indices there are: of an Embed of flax, or the `vocab` of another module; None where it is not said."""
    match drive:
        case Joined(drive=inner, before=()) | BatchOfOne(module=inner):
            return number_of_indices(inner)
        case Linen(module=module):
            return _number_of_indices(module)
        case NNX(indices=known):
            return known
    return None


def _number_of_indices(module: Any) -> int | None:
    number = getattr(module, "num_embeddings", getattr(module, "vocab", None))
    return number if isinstance(number, int) else None


def places(drive: Drive) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """(path in theta, object) of what another layer may share: a linen module, nnx parameters."""
    match drive:
        case Joined(drive=inner) | BatchOfOne(module=inner):
            yield from places(inner)
        case Linen(module=OneExample()):
            return
        case Linen(module=module, kept=kept):
            yield (), module if kept is None else kept.of
        case NNX(held=held):
            yield from held.items()


def parts(drive: Drive) -> Iterator[tuple[nn.Module, nn.Module]]:
    """(part, whole) for a linen module and every one inside it."""
    match drive:
        case Joined(drive=inner) | BatchOfOne(module=inner):
            yield from parts(inner)
        case Linen(module=whole):
            inside = {name: value for name, value in vars(whole).items() if name not in ("parent", "scope", "_state")}
            found = jax.tree.leaves(inside, is_leaf=lambda v: isinstance(v, nn.Module))
            yield from ((part, whole) for part in (whole, *found) if isinstance(part, nn.Module))


def _paths(tree: Any) -> dict[tuple[str, ...], Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {tuple(str(getattr(key, "key", key)) for key in path): leaf for path, leaf in leaves}
