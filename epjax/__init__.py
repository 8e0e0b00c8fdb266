"""Equilibrium propagation for predictive coding networks."""
