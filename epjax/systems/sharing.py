"""What the nudged phases of one gradient share where they run together, and what each has for its own.

    signals   "shared"   the first sweep's T_k = beta T_k(1), linear in beta at the free state: one pass down for all
              "own"      each phase's T_k through its own errors
    products  "shared"   a layer's weights see one product, of its mean state with the difference of its errors
              "own"      each phase's states with its own errors

Whatever they share, states, gates, pooling routes and errors are those of the nudged phases, each built by a forward
pass of its own. See `epjax.systems.pcn.sweep` and `epjax.network.products`.
"""

import dataclasses
from typing import Any, Literal, get_args

from epjax.systems.solution import Errors

Sharing = Literal["shared", "own"]


def check_sharing(signals: Any, products: Any) -> None:
    """Raises ValueError for a word that is no `Sharing`; products may be None."""
    allowed = " or ".join(map(repr, get_args(Sharing)))
    if signals not in get_args(Sharing):
        raise ValueError(f"signals must be {allowed}, got {signals!r}")
    if products is not None and products not in get_args(Sharing):
        raise ValueError(f"products must be None, {allowed}, got {products!r}")


def settled(method: Any, phases: int, errors: Errors, *, together: bool) -> Any:
    """The equilibration with products of None settled for so many phases of real strength.

    They share products where they run together and carry their errors. Recomputed errors are those of a machine that
    has its phases one after the other and measures states: there each has its own. Raises ValueError where phases that
    do not run together, or whose strengths are complex, were told to share.
    """
    for name in ("signals", "products"):
        if getattr(method, name, None) == "shared" and not together:
            raise ValueError(f"{name} must be 'own' unless phases of real strength run together, got 'shared'")
    if getattr(method, "products", "own") is not None:
        return method
    shared = phases > 1 and together and errors == "carried"
    return dataclasses.replace(method, products="shared" if shared else "own")
