"""Experiments: each a command, a recipe, and what came of it."""
