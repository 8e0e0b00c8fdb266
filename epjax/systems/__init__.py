"""Physical systems that equilibrium propagation trains."""
