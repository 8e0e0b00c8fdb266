"""Equilibrium propagation for predictive coding networks in JAX."""

from epjax import cost, models
from epjax.diagnosis import diagnose
from epjax.estimator import Aux, backprop_value_and_grad, value_and_grad
from epjax.loss import ep_loss
from epjax.network import Layer, Network, activation, drive, from_flax
from epjax.systems.pcn import Async, Sweep, Sync, energy
from epjax.systems.solution import Solution

__version__ = "0.2.0"

__all__ = [
    "Async",
    "Aux",
    "Layer",
    "Network",
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
    "from_flax",
    "models",
    "value_and_grad",
]
