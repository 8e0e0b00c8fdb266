"""Experiments: a paper, a recipe, a command; one file each."""
