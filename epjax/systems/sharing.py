"""What the nudged phases of one gradient share where they run together, and what each has for its own.

    signals   "shared"   the first sweep's T_k = beta T_k(1), linear in beta at the free state: one pass down for all
              "own"      each phase's T_k through its own errors
    products  "shared"   a layer's weights see one product, of its mean state with the difference of its errors
              "own"      each phase's states with its own errors
    pulls     "shared"   the weights inside a block see the error as the pass down pulled it there, at the free state
              "own"      each phase pulls it once more, through its nudged state

Whatever they share, states, gates, pooling routes and errors are those of the nudged phases, each built by a forward
pass of its own; but for the gates inside a block, which with shared pulls are the free state's. See
`epjax.systems.pcn.sweep`, `epjax.network.products` and `epjax.network.inside`.
"""

import dataclasses
from typing import Any, Literal, get_args

from epjax.systems.solution import Errors

Sharing = Literal["shared", "own"]


def check_sharing(signals: Any, products: Any, pulls: Any) -> None:
    """Raises ValueError for a word that is no `Sharing`; products and pulls may be None."""
    allowed = " or ".join(map(repr, get_args(Sharing)))
    if signals not in get_args(Sharing):
        raise ValueError(f"signals must be {allowed}, got {signals!r}")
    for name, value in (("products", products), ("pulls", pulls)):
        if value is not None and value not in get_args(Sharing):
            raise ValueError(f"{name} must be None, {allowed}, got {value!r}")


def settled(method: Any, phases: int, errors: Errors, *, together: bool, keeps: bool = True) -> Any:
    """The equilibration with products and pulls of None settled for so many phases of real strength.

    They are shared where phases run together and carry their errors; pulls, which are kept from the pass down to the
    end, by one sweep of a network that `keeps` what it computed, without a `Repeat` with `checkpoint`. Recomputed
    errors are those of a machine that has its phases one after the other and measures states: there each has its own.
    Raises ValueError where phases that do not run together, or whose strengths are complex, were told to share.
    """
    for name in ("signals", "products", "pulls"):
        if getattr(method, name, None) == "shared" and not together:
            raise ValueError(f"{name} must be 'own' unless phases of real strength run together, got 'shared'")
    shares = {
        "products": phases > 1 and together and errors == "carried",
        "pulls": together and errors == "carried" and keeps and getattr(method, "sweeps", 2) == 1,
    }
    return dataclasses.replace(
        method,
        **{n: "shared" if shared else "own" for n, shared in shares.items() if getattr(method, n, "own") is None},
    )
