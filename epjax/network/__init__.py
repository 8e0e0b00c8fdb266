"""Networks: a list of layers, each a drive and an activation."""

from epjax.network import activation, drive
from epjax.network.architecture import Layer, Network, Params, States
from epjax.network.listed import from_flax
from epjax.network.marks import state
from epjax.network.traced import from_function

__all__ = ["Layer", "Network", "Params", "States", "activation", "drive", "from_flax", "from_function", "state"]
