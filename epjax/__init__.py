"""Equilibrium propagation for predictive coding networks in JAX."""

from epjax import activation, cost, energy, models
from epjax.diagnosis import diagnose
from epjax.equilibrium import Async, Solution, Sync
from epjax.estimator import Aux, backprop_value_and_grad, value_and_grad
from epjax.loss import ep_loss
from epjax.network import Layer, Network, from_flax
from epjax.sweep import Sweep

__version__ = "0.1.0"

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
    "energy",
    "ep_loss",
    "from_flax",
    "models",
    "value_and_grad",
]
