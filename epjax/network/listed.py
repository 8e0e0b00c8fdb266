"""A list of flax modules as a network."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
from flax import nnx

from epjax.network.activation import ACTIVATIONS, Activation, identity
from epjax.network.architecture import Layer, Network
from epjax.network.modules import Function, Joined, Plain, as_drive
from epjax.network.precision import Precision


def from_flax(modules: Sequence[Any] | nn.Sequential | nnx.Sequential, *, precision: Precision = "float32") -> Network:
    """A list of flax modules, linen and nnx, as a network: every module is a layer, a whole block too.

    * A module begins a layer with identity activation; its h_k is the module's output.
    * `jax.nn.relu` or `jax.nn.hard_tanh` (projections), or an `Activation`, right after a module or the functions
      that joined it, is the layer's activation and closes the layer.
    * Any other function of a batch without parameters (flatten, pooling, tanh) joins the drive of the module
      that it follows; once that layer is closed, or before the first module, the drive of the next module. What is
      left after the last module is a layer of its own without parameters.

    Parameters are one entry a layer: a linen module's `params`, or an nnx module's `nnx.State`. The free phase is the
    forward pass of the list. A `Sequential` stands for its list. Raises ValueError for what is no module or function.
    """
    listed = modules.layers if isinstance(modules, nn.Sequential | nnx.Sequential) else modules
    drives: list[Joined] = []
    activations: list[Activation] = []
    waiting: tuple[Function, ...] = ()
    is_open = False
    for place, module in enumerate(listed):
        if isinstance(module, nn.Module | nnx.Module):
            drives.append(Joined(as_drive(module), before=waiting))
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


def _projection(function: Function) -> Activation | None:
    if isinstance(function, Activation):
        return function
    return next((a for a in ACTIVATIONS.values() if a.bounds is not None and a.phi is function), None)
