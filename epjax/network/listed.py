"""Flax models as networks: a list of modules by its modules, any other model by its program."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import flax.linen as nn

from epjax.network.activation import ACTIVATIONS, Activation, identity
from epjax.network.architecture import Network
from epjax.network.drive import OneExample
from epjax.network.layer import Layer
from epjax.network.modules import BatchOfOne, Drive, Function, Joined, Kept, Linen, Plain, as_drive
from epjax.network.precision import Precision
from epjax.network.whole import of_model

if TYPE_CHECKING:
    from flax import nnx
else:
    from epjax.network import nnx


def from_flax(
    modules: Sequence[Any] | nn.Module | nnx.Module, x: Any = None, *, precision: Precision = "float32"
) -> Network:
    """A list of flax modules, linen and nnx, or a model with one example, as a network.

    Without x, a list or a `Sequential`: every module in it is a layer, a whole block too.

    * A module begins a layer with identity activation; its h_k is the module's output.
    * `jax.nn.relu` or `jax.nn.hard_tanh` (projections), or an `Activation`, right after a module or the functions
      that joined it, is the layer's activation and closes the layer.
    * Any other function of a batch without parameters (flatten, pooling, tanh) joins the drive of the module
      that it follows; once that layer is closed, or before the first module, the drive of the next module. What is
      left after the last module is a layer of its own without parameters.

    Parameters are one entry a layer: a linen module's `params`, or an nnx module's `nnx.State`. The free phase is the
    forward pass of the list. A `Sequential` stands for its list; a bound linen one brings the statistics that it holds.
    A module that is listed twice is one, and its parameters are held once (see `epjax.network.ties`).

    With x [...], one example or its shape and dtype, any model: it is traced as by `from_function`, on a batch of one,
    and cut at the marks that it sets by `epjax.state`. A model that sets none is cut after the output of every module
    in it, however deep, that gives one array; a clip right after a module is its layer's projection. Blocks in a scan
    (`nn.scan`, `nnx.scan`) are a `Repeat`. Parameters are the model's own: a linen model's
    ``model.init(...)["params"]``, or the `nnx.State` of an nnx model.

    Raises ValueError for what is no module or function, and for what `from_function` refuses.
    """
    if x is not None:
        if not isinstance(modules, nn.Module | nnx.Module):
            raise ValueError(f"modules must be a flax module where x is given, got {type(modules).__name__}")
        return of_model(modules, x, precision)
    listed, drive_of = _listed(modules)
    drives: list[Joined] = []
    activations: list[Activation] = []
    waiting: tuple[Function, ...] = ()
    is_open = False
    for place, module in enumerate(listed):
        if isinstance(module, nn.Module | nnx.Module):
            drives.append(Joined(drive_of(module), before=waiting))
            activations.append(identity)
            waiting, is_open = (), True
        elif not callable(module) or isinstance(module, type):
            raise ValueError(f"modules[{place}] must be a flax module or a function of a batch, got {module!r}")
        elif is_open and (activation := _projection(module)):
            activations[-1], is_open = activation, False
        elif is_open:
            drives[-1] = drives[-1].then(module)
        else:
            waiting = (*waiting, module)
    if waiting:
        drives.append(Joined(Plain(), before=waiting))
        activations.append(identity)
    layers = (Layer(drive, activation) for drive, activation in zip(drives, activations, strict=True))
    return Network(tuple(layers), precision)


def _listed(modules: Any) -> tuple[Sequence[Any], Callable[[Any], Drive]]:
    """The list, and how a module of it becomes a drive."""
    if isinstance(modules, nn.Sequential) and modules.scope is not None:
        model, variables = modules.unbind()
        return model.layers, partial(_of_bound, model.layers, variables)
    listed = modules.layers if isinstance(modules, nn.Sequential | nnx.Sequential) else modules
    if not isinstance(listed, Sequence | nnx.List):
        what = type(listed).__name__
        other = "; epjax.from_flax(model, x) takes another model, with one example"
        hint = other if isinstance(modules, nn.Module | nnx.Module) else ""
        raise ValueError(f"modules must be a list of flax modules and functions, or a Sequential, got {what}{hint}")
    if not listed:
        raise ValueError("modules must hold at least one module or function, got none")
    return listed, as_drive


def _of_bound(listed: Sequence[Any], variables: Mapping[str, Mapping[str, Any]], module: Any) -> Drive:
    """A module of a bound linen Sequential, which keeps the variables of its layers as `layers_0`, `layers_1`, ..."""
    name = f"layers_{next(i for i, other in enumerate(listed) if other is module)}"
    kept = {kind: held[name] for kind, held in variables.items() if kind != "params" and name in held}
    linen = Linen(module, Kept(module, kept) if kept else None)
    return linen if isinstance(module, OneExample) else BatchOfOne(linen)


def _projection(function: Function) -> Activation | None:
    if isinstance(function, Activation):
        return function
    return next((a for a in ACTIVATIONS.values() if a.bounds is not None and a.phi is function), None)
