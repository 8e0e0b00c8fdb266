"""Figures of the README."""
