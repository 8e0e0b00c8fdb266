"""Physical systems that equilibrium propagation trains, and the ways to their nudged states by name."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from epjax.network import Network, unrolled
from epjax.systems.hopfield import Hopfield
from epjax.systems.oscillators import Oscillators
from epjax.systems.pcn import PCN, Async, Sweep, Sync
from epjax.systems.relax import Relax
from epjax.systems.resistive import Resistive
from epjax.systems.system import System

EQUILIBRATIONS: Mapping[str, Any] = {"sweep": Sweep(1), "async": Async(10), "sync": Sync(10), "relax": Relax()}
"""By name, with their usual options."""


def as_system(net: Network | System) -> System:
    """A network as a predictive coding network, any other system as it is. Raises ValueError for anything else."""
    if isinstance(net, Network):
        return PCN(net)
    if isinstance(net, type) or not isinstance(net, System):
        how = "epjax.Network(layers) for Layers, epjax.from_flax(model) for flax modules"
        raise ValueError(f"net must be an epjax.Network or another system, got a {type(net).__name__}: {how}")
    return net


def layer_by_layer(net: Any) -> Any:
    """A network, or one as a system, with its runs laid out and its parameters as they are; other systems as they are.

    See `epjax.network.unrolled`.
    """
    if isinstance(net, Network):
        return unrolled(net)
    return PCN(unrolled(net.net), net.precisions) if isinstance(net, PCN) else net


def opened(system: Any) -> Any:
    """A network as a system whose layers pull errors to their inside (`epjax.network.inside`); others as they are."""
    return dataclasses.replace(system, opened=True) if isinstance(system, PCN) else system


def as_equilibration(method: Any) -> Any:
    """The equilibration of that name, or the object itself, which a system may refuse.

    Raises ValueError for an unknown name and for a class in the place of an object.
    """
    known = EQUILIBRATIONS.get(method) if isinstance(method, str) else method
    if known is None or isinstance(known, type):
        allowed = f"one of {', '.join(EQUILIBRATIONS)}, or an object such as epjax.Sweep(1)"
        raise ValueError(f"equilibration must be {allowed}, got {method!r}")
    return known


__all__ = [
    "EQUILIBRATIONS",
    "PCN",
    "Hopfield",
    "Oscillators",
    "Relax",
    "Resistive",
    "System",
    "as_equilibration",
    "as_system",
    "layer_by_layer",
    "opened",
]
