"""A whole flax model, linen or nnx, as a network: its own marks, or one after the output of every module in it."""

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from epjax.network.architecture import Network, sentence
from epjax.network.marks import holds_marks, of_module
from epjax.network.modules import NNX, BatchOfOne, Drive, Refused, as_drive
from epjax.network.precision import Precision
from epjax.network.traced import Function, as_example, network_of

if TYPE_CHECKING:
    from flax import nnx
else:
    from epjax.network import nnx


def of_model(model: nn.Module | nnx.Module, x: Any, precision: Precision) -> Network:
    """The network of a model for one example x (see `epjax.from_flax`)."""
    drive, x, name = as_drive(model), as_example(x), type(model).__name__
    try:
        params = jax.eval_shape(lambda key: drive.init(key, x), jax.eval_shape(lambda: jax.random.key(0)))
        has_its_own = holds_marks(jax.make_jaxpr(drive.apply)(params, x).jaxpr)
    except Refused as error:
        raise ValueError(f"model ({name}) {error}") from None
    except Exception as error:
        what = f"one example x, {x.dtype} {list(x.shape)} without a batch axis"
        raise ValueError(f"model ({name}) refuses {what}: {sentence(error)}") from error
    f = drive.apply if has_its_own else _with_marks(drive)
    return network_of(f, name, params, x, lambda key: drive.init(key, x), precision)


def _with_marks(drive: Drive) -> Function:
    """The drive's function, marked after every module's output."""
    if isinstance(drive, BatchOfOne) and isinstance(drive.module, NNX):
        return BatchOfOne(Marked(drive.module)).apply

    def apply(theta: Any, x: Array) -> Array:
        with nn.intercept_methods(_mark_linen):
            return drive.apply(theta, x)

    return apply


def _mark_linen(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    out, module = call(*args, **kwargs), context.module
    return _marked(out, "/".join(module.path) or type(module).__name__) if context.method_name == "__call__" else out


def _marked(out: Any, name: str) -> Any:
    """One array of floating numbers is a state, with None beside it too, as a scan's body gives it; else none is."""
    leaves = jax.tree.leaves(out)
    is_state = len(leaves) == 1 and isinstance(leaves[0], Array) and jnp.issubdtype(leaves[0].dtype, jnp.inexact)
    return jax.tree.map(partial(of_module, name=name), out) if is_state else out


@dataclass(frozen=True)
class Marked:
    """An nnx module whose parts mark what they give."""

    drive: NNX

    @property
    def name(self) -> str:
        """The module's class."""
        return self.drive.name

    def init(self, key: Array, *inputs: jax.ShapeDtypeStruct) -> Any:
        """The module's theta."""
        return self.drive.init(key, *inputs)

    def apply(self, theta: Any, *inputs: Array) -> Array:
        """As the module computes it, from a copy whose parts are of classes that mark."""
        module = self.drive.module(theta)
        for path, part in list(nnx.iter_modules(module)):
            if callable(part):
                object.__setattr__(part, "__class__", _marking(type(part), "/".join(map(str, path))))
        return module(*inputs)


@lru_cache(maxsize=1024)
def _marking(kind: type, path: str) -> type:
    """A class that is `kind` and marks what its call gives."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _marked(kind.__call__(self, *args, **kwargs), path or kind.__name__)

    return type(kind)(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})
