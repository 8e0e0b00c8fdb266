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
OPTIONS = ("signals", "products")


def check_sharing(**options: Any) -> None:
    """Raises ValueError for an option that is neither None nor a `Sharing`."""
    for name, value in options.items():
        if value is not None and value not in get_args(Sharing):
            raise ValueError(f"{name} must be None, {' or '.join(map(repr, get_args(Sharing)))}, got {value!r}")


def settled(method: Any, phases: int, errors: Errors, *, together: bool) -> Any:
    """The equilibration with what it leaves open (None) settled for so many phases of real strength.

    They share where they run together and carry their errors. Recomputed errors are those of a machine that has its
    phases one after the other and measures states: there each has its own. Raises ValueError where phases that do
    not run together, or whose strengths are complex, were told to share.
    """
    given = {name: getattr(method, name) for name in OPTIONS if hasattr(method, name)}
    for name, value in given.items():
        if value == "shared" and not together:
            allowed = "'own' or None unless phases of real strength run together"
            raise ValueError(f"{name} must be {allowed}, got 'shared'")
    usual: Sharing = "shared" if phases > 1 and together and errors == "carried" else "own"
    left_open = {name: usual for name, value in given.items() if value is None}
    return dataclasses.replace(method, **left_open) if left_open else method
