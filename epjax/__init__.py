"""Equilibrium propagation in JAX: predictive coding networks, and other physical systems."""

from epjax import cost, models, pc, systems
from epjax.diagnosis import diagnose
from epjax.estimator import backprop_value_and_grad, exact_value_and_grad, value_and_grad
from epjax.loss import ep_loss
from epjax.network import Layer, Network, Repeat, activation, drive, from_flax, from_function, state
from epjax.systems.pcn import Async, Sweep, Sync, energy
from epjax.systems.relax import Relax
from epjax.systems.solution import Solution
from epjax.systems.system import Aux

__version__ = "0.2.0"

__all__ = [
    "Async",
    "Aux",
    "Layer",
    "Network",
    "Relax",
    "Repeat",
    "Solution",
    "Sweep",
    "Sync",
    "activation",
    "backprop_value_and_grad",
    "cost",
    "diagnose",
    "drive",
    "energy",
    "ep_loss",
    "exact_value_and_grad",
    "from_flax",
    "from_function",
    "models",
    "pc",
    "state",
    "systems",
    "value_and_grad",
]


def __dir__() -> list[str]:
    """What is meant to be used."""
    return sorted([*__all__, "__version__"])
