"""Programs with loops: what they compute, and the gradients of what they scan, layer by layer."""

from collections.abc import Callable
from typing import Any

import jax

from epjax.network import Stacked


def flops_of(n: int, counted: Callable[[int], float]) -> float:
    """FLOPs of a run of n blocks, from XLA's counts for runs of 0, 2 and 3, which hold a loop's body once.

    What a program has beside its loops grows with n, what it has in them does not.
    """
    ends, two, three = (counted(blocks) for blocks in (0, 2, 3))
    outside = three - two
    body = two - 2 * outside - ends
    return ends + n * (outside + body)


def by_layer(gradient: Any) -> tuple[Any, ...]:
    """One entry a layer, those of a run by themselves."""
    found: list[Any] = []
    for entry in jax.device_get(gradient):
        if isinstance(entry, Stacked):
            n = len(jax.tree.leaves(entry)[0])
            found += [jax.tree.map(lambda v, i=i: v[i], entry.units) for i in range(n)]
        else:
            found.append(entry)
    return tuple(found)
