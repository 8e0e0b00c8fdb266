"""Runs of equal layers: one by one, or stacked."""

from collections.abc import Callable

from epjax.network import Layer, Repeat


def run_of(n: int, unit: Callable[[], tuple[Layer, ...]], *, stacked: bool) -> tuple[Layer | Repeat, ...]:
    """N units, each made anew: a linen module that stands in two layers would be tied. With `stacked` one `Repeat`."""
    if stacked and n > 1:
        return (Repeat(unit(), n),)
    return tuple(layer for _ in range(n) for layer in unit())
