"""Predictive coding networks: their energy, their free phase, and ways to their nudged equilibria."""

from epjax.systems.pcn import energy
from epjax.systems.pcn.network import PCN
from epjax.systems.pcn.problem import Equilibration, Problem, equilibrate
from epjax.systems.pcn.signals import FreePhase, free_phase
from epjax.systems.pcn.sweep import Sweep
from epjax.systems.pcn.traversal import Async, Sync

__all__ = [
    "PCN",
    "Async",
    "Equilibration",
    "FreePhase",
    "Problem",
    "Sweep",
    "Sync",
    "energy",
    "equilibrate",
    "free_phase",
]
