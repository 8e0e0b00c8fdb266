"""Networks: a list of layers, each a drive and an activation."""

from epjax.network import activation, drive
from epjax.network.architecture import Network, Params, States
from epjax.network.layer import Layer
from epjax.network.listed import from_flax
from epjax.network.marks import state
from epjax.network.repeat import Repeat, Stacked
from epjax.network.traced import from_function
from epjax.network.unrolled import unrolled

__all__ = [
    "Layer",
    "Network",
    "Params",
    "Repeat",
    "Stacked",
    "States",
    "activation",
    "drive",
    "from_flax",
    "from_function",
    "state",
    "unrolled",
]
