"""`flax.nnx` where a program uses it: importing it costs about a sixth of what jax, flax and optax together do.

An object of nnx exists only after somebody has imported it; before that, its classes are ones that nothing is made of.
"""

import sys
from typing import Any


class Absent:
    """Has no instances."""


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    loaded = sys.modules.get("flax.nnx")
    return Absent if loaded is None else getattr(loaded, name)
